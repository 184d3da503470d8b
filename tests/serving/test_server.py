"""The server over real HTTP: whom it answers, what it refuses, and that nothing ends it."""

import http.client
import json
import socket
import threading

import pytest

from tl_jax.serving.server import ADDRESS, MAX_BYTES, PageServer

NETWORK = {"name": "runs/a"}


def echo(picture: bytes, **options) -> dict:
    """An answer that says what it was asked."""
    return {"size": len(picture), **options}


def ask(server, method="GET", path="/", body=None, **headers):
    """Returns the status, the headers and the content of an answer."""
    connection = http.client.HTTPConnection(ADDRESS, server.server_port, timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


@pytest.fixture(scope="module")
def server(serve) -> PageServer:
    return serve(NETWORK, echo)


def test_the_page_its_files_and_the_network_are_sent(server):
    for path, kind in {
        "/": "text/html",
        "/page.css": "text/css",
        "/page.js": "text/javascript",
        "/icon.svg": "image/svg+xml",
    }.items():
        status, headers, content = ask(server, path=path)
        assert (status, headers.get_content_type()) == (200, kind)
        assert len(content) > 100
    status, _, content = ask(server, path="/network.json")
    assert (status, json.loads(content)) == (200, {**NETWORK, "max_bytes": MAX_BYTES})


def test_a_picture_and_its_options_reach_the_network(server):
    path = "/answer?method=saliency&task=a%26b&target=3&name=x.png"
    status, _, content = ask(server, "POST", path, b"12345")
    asked = {"size": 5, "method": "saliency", "task": "a&b", "target": 3, "name": "x.png"}
    assert (status, json.loads(content)) == (200, asked)
    status, _, content = ask(server, "POST", "/answer?method=&target=", b"1")
    assert (status, json.loads(content)) == (200, {"size": 1})


@pytest.mark.parametrize(
    "query",
    ["target=-1", "target=x", "target=1e3", "target=99999999999", "path=x", "a=1&" * 99],
)
def test_options_that_mean_nothing_are_refused(server, query):
    status, _, content = ask(server, "POST", f"/answer?{query}", b"1")
    assert status == 422 and json.loads(content)["error"]


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == ADDRESS == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:7860", 200),  # Behind a tunnel the port is another one.
        ("127.0.0.1:7860", 200),
        ("[::1]:7860", 200),
        ("evil.example", 403),
        ("evil.example:7860", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:7860", 403),
        ("localhost:7860@evil.example", 403),
        ("192.168.0.7:7860", 403),
        ("", 403),
    ],
)
def test_other_names_of_this_machine_are_refused(server, host, status):
    """A page elsewhere may point its own name at 127.0.0.1 (DNS rebinding)."""
    assert ask(server, Host=host)[0] == status
    found, _, content = ask(server, "POST", "/answer", b"1", Host=host)
    assert found == status
    assert status == 200 or "expected localhost" in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:7860", 200),
        ("http://localhost:3000", 403),
        ("https://localhost:7860", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
def test_questions_of_other_pages_are_refused(server, origin, status):
    headers = {"Host": "localhost:7860", "Origin": origin}
    assert ask(server, "POST", "/answer", b"1", **headers)[0] == status
    assert ask(server, path="/network.json", **headers)[0] == status


@pytest.mark.parametrize(
    "path",
    "/page/page.css /../answers.py /%2e%2e/answers.py //etc/passwd /page/ /answer *".split(),
)
def test_no_other_file_is_sent(server, path):
    status, _, content = ask(server, path=path)
    assert status == 404 and b"no such page" in content


@pytest.mark.parametrize("path", ["/", "/page.js", "/network.json", "/nothing", "/answer"])
def test_every_answer_forbids_what_comes_from_elsewhere(server, path):
    for method in ("GET", "POST", "PUT"):
        headers = ask(server, method, path, b"1" if method == "POST" else None)[1]
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        assert "http" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


def test_a_picture_of_too_many_bytes_is_refused_before_it_is_read(server):
    status, _, content = ask(server, "POST", "/answer", Content_Length=str(10**15))
    assert status == 413
    assert "953,674,316 MiB; expected at most 64 MiB" in json.loads(content)["error"]
    assert ask(server, "POST", "/answer", Content_Length="9" * 5000)[0] == 413
    # A browser looks at the answer only when it has sent everything.
    status, _, content = ask(server, "POST", "/answer", bytes(MAX_BYTES + 1))
    assert status == 413 and "make it smaller" in json.loads(content)["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "-1"},
        {"Content_Length": "1_0"},
        {"Transfer_Encoding": "chunked"},
        {"Transfer_Encoding": "chunked", "Content_Length": "0"},
    ],
)
def test_a_picture_of_unknown_size_is_refused(server, headers):
    assert ask(server, "POST", "/answer", **headers)[0] == 411


def test_no_error_ends_it(serve, capfd):
    def fail(picture: bytes) -> dict:
        raise {b"bad": ValueError("no picture"), b"odd": RuntimeError("out of memory")}[picture]

    server = serve(NETWORK, fail)
    status, _, content = ask(server, "POST", "/answer", b"bad")
    assert (status, json.loads(content)) == (422, {"error": "no picture"})
    assert capfd.readouterr().err == ""
    status, _, content = ask(server, "POST", "/answer", b"odd")
    assert (status, json.loads(content)) == (500, {"error": "RuntimeError: out of memory"})
    assert "Traceback" in capfd.readouterr().err
    for sent in (b"", b"nonsense\r\n\r\n", b"POST /answer HTTP/1.1\r\nHost: localhost\r\n"):
        with socket.create_connection((ADDRESS, server.server_port)) as connection:
            connection.sendall(sent)
    assert ask(server)[0] == 200


def test_a_browser_that_goes_is_no_error(serve, capfd):
    began, go_on = threading.Event(), threading.Event()

    def slow(picture: bytes) -> dict:
        began.set()
        assert go_on.wait(30)
        return {"much": "x" * (8 << 20)}  # More than what is sent without a reader.

    server = serve(NETWORK, slow)
    with socket.create_connection((ADDRESS, server.server_port)) as connection:
        connection.sendall(
            b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1"
        )
        assert began.wait(30)
        # The page is there while a picture is computed.
        assert ask(server)[0] == 200
    go_on.set()
    assert ask(server)[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_named(server):
    port = server.server_port
    with pytest.raises(OSError, match=f"port {port}: another program has it; choose .*--port"):
        PageServer(port)


@pytest.mark.parametrize("port", [-1, 65536, "80", 1.5])
def test_a_port_is_a_number(port):
    with pytest.raises((TypeError, ValueError), match="port is"):
        PageServer(port)
