"""A fixture that serves a page on a free port, and stops it at the end of a module."""

import threading

import pytest

from tl_jax.serving.server import PageServer


@pytest.fixture(scope="module")
def serve():
    """Returns a function that serves, and returns the server."""
    running = []

    def start(network, answer) -> PageServer:
        server = PageServer(0)
        thread = threading.Thread(target=server.serve, args=(network, answer))
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join(timeout=30)
        assert not thread.is_alive()
