"""The server of the page: on this machine alone, for this page alone, and of bounded size."""

import errno
import re
import sys
import traceback
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl

from tl_jax import arguments, files

ADDRESS = "127.0.0.1"
MAX_BYTES = 64 << 20
"""Larger pictures are refused before they are read."""

# A page elsewhere may send a browser here under a name of its own (DNS rebinding), but the browser
# then says so. The port is not compared: behind `ssh -L` it is another one.
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# The files of the page by the path of a request: no other file is ever read.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_JSON = "application/json; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_OPTIONS = ("method", "task", "target", "name")

Answer = Callable[..., dict[str, Any]]


class PageServer(ThreadingHTTPServer):
    """The page of one network, on a port of this machine.

    Attributes:
      network: what the page shows before any picture, as JSON values.
      answer: returns what the page shows of a picture, as `Answers`.
    """

    network: dict[str, Any]
    answer: Answer

    def __init__(self, port: int) -> None:
        """Takes the port; browsers that come before `serve` wait for it.

        Args:
          port: number of the port; 0 for any that is free.

        Raises:
          TypeError, ValueError: if it is no number of a port.
          OSError: if another program has it, or it may not be used.
        """
        arguments.whole_number("port", port, least=0, advice="expected 0 to 65535")
        if port > 65535:
            raise ValueError(f"port is {port}; expected 0 to 65535")
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            taken = "another program has it" if error.errno == errno.EADDRINUSE else error.strerror
            raise OSError(
                f"cannot serve on port {port}: {taken}; choose another with --port (port=), such "
                "as --port 0 for any that is free"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def serve(self, network: dict[str, Any], answer: Answer) -> None:
        """Serves until `shutdown`, or KeyboardInterrupt.

        Args:
          network, answer: the attributes.
        """
        self.network, self.answer = network, answer
        self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error, unless it is a browser that has gone; the server goes on."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    server_version, sys_version = "tl-jax", ""
    timeout = 60  # Seconds without a byte.

    def do_GET(self) -> None:
        """Sends a file of the page, or what it shows before any picture."""
        path = self.path.partition("?")[0]
        if not self._is_from_here():
            return
        if path == "/network.json":
            self._send_json(200, {**self.server.network, "max_bytes": MAX_BYTES})
        elif path in _FILES:
            name, kind = _FILES[path]
            self._send(200, kind, _content(name))
        else:
            self._send(404, _TEXT, b"There is no such page; the demo is at /\n")

    def do_POST(self) -> None:
        """Sends what the network says of the picture in the request, or what is wrong with it."""
        path, _, query = self.path.partition("?")
        if not self._is_from_here() or (picture := self._body()) is None:
            return
        if path != "/answer":
            self._send_json(404, {"error": "pictures are sent to /answer"})
            return
        try:
            status, said = 200, self.server.answer(picture, **_options(query))
        except (ValueError, TypeError) as error:
            status, said = 422, {"error": str(error)}
        except Exception as error:  # Whatever a picture brings about, the next one is answered.
            traceback.print_exc()
            status, said = 500, {"error": f"{type(error).__name__}: {error}"}
        self._send_json(status, said)

    def _is_from_here(self) -> bool:
        """Returns whether the request is for this machine and of this page; else refuses it."""
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if len(hosts) != 1 or not _LOCAL.fullmatch(hosts[0]):
            self._refuse(403, f"got the host {', '.join(hosts)!r}; expected localhost or {ADDRESS}")
            return False
        if origin not in (None, f"http://{hosts[0]}"):
            self._refuse(403, f"got a request of {origin!r}; expected one of the page itself")
            return False
        return True

    def _body(self) -> bytes | None:
        """Returns what was sent, or None if it was refused."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self._refuse(411, "expected a picture with its Content-Length")
            return None
        if (size := int(length[:18])) > MAX_BYTES:
            self._refuse(
                413,
                f"the picture has {size / 2**20:,.0f} MiB; expected at most {MAX_BYTES >> 20} MiB: "
                "make it smaller",
            )
            return None
        body = self.rfile.read(size)
        return body if len(body) == size else None

    def _refuse(self, status: int, error: str) -> None:
        """Refuses a request, and reads what a browser sends before it looks at the answer."""
        self._send_json(status, {"error": error})
        left = 2 * MAX_BYTES
        while left > 0 and self.command == "POST" and (part := self.rfile.read1(1 << 16)):
            left -= len(part)

    def _send_json(self, status: int, value: Any) -> None:
        self._send(status, _JSON, files.json_text(value).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """Adds what every answer forbids, errors of `http.server` included."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


def _options(query: str) -> dict[str, Any]:
    """Returns the options of a question, without those that are empty."""
    given: dict[str, Any] = dict(parse_qsl(query, max_num_fields=len(_OPTIONS)))
    if unknown := given.keys() - set(_OPTIONS):
        raise ValueError(f"got {', '.join(sorted(unknown))}; expected {', '.join(_OPTIONS)}")
    if "target" in given:
        if not re.fullmatch(r"\d{1,9}", given["target"], re.ASCII):
            raise ValueError(f"got the target {given['target']!r}; expected the place of a class")
        given["target"] = int(given["target"])
    return given


@cache
def _content(name: str) -> bytes:
    """Returns a file of the page."""
    return (resources.files(__package__) / "page" / name).read_bytes()
