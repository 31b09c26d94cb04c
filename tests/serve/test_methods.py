"""Methods beside GET and POST, and other versions of HTTP, as monitors, browsers and old clients send them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
from serve_client import WAIT_S, Served, served
from tiny_text_model import save_text_model


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False)) as one:
        yield one


def asked(running: Served, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.server.port, timeout=WAIT_S)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/", "/version"])
def test_the_head_of_an_answer_is_that_of_the_whole(running: Served, path: str) -> None:
    """It was 405, which monitors take for a server that is down."""
    status, headers, body = asked(running, "HEAD", path)
    whole = asked(running, "GET", path)
    assert (status, body) == (200, b"") and whole[0] == 200
    assert headers["content-type"] == whole[1]["content-type"]


def test_a_connection_goes_on_behind_heads(running: Served) -> None:
    """Also behind that of a stream that never ends."""
    connection = http.client.HTTPConnection("127.0.0.1", running.server.port, timeout=WAIT_S)
    for method, path in (("HEAD", "/cluster/events"), ("HEAD", "/v2"), ("HEAD", "/health"), ("GET", "/health")):
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.status == (404 if path == "/v2" else 200)
        assert bool(answer.read()) == (method == "GET")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("HEAD", "/v1/chat/completions", "POST"), ("OPTIONS", "/v1/models", "GET"), ("DELETE", "/v1/models/x", "GET")],
)
def test_a_method_that_a_route_has_not(running: Served, method: str, path: str, allowed: str) -> None:
    status, headers, _ = asked(running, method, path)
    assert status == 405 and headers["allow"] == allowed


def test_old_clients(running: Served) -> None:
    with running.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        said = b""
        while part := connection.recv(4096):
            said += part
    assert said.split(b" ")[1] == b"200" and said.endswith(b'{"status":"ok"}')


def test_requests_that_do_not_wait_for_answers(running: Served) -> None:
    """Pipelined: each has its own answer, in order."""
    one = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with running.connect() as connection:
        connection.sendall(one % b"/health" + one % b"/v2" + last)
        said = b""
        while part := connection.recv(4096):
            said += part
    assert [each[:3] for each in said.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


@pytest.mark.parametrize(
    "path", ["/static/../../etc/passwd", "/static/%2e%2e/%2e%2e/app.py", "//etc", "/static//x", "/%00"]
)
def test_paths_that_lead_elsewhere(running: Served, path: str) -> None:
    status, _, body = asked(running, "GET", path)
    assert status == 404 and b"root:" not in body


def test_a_web_socket_is_refused(running: Served) -> None:
    with running.connect() as connection:
        connection.sendall(
            b"GET /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert connection.recv(4096).split(b" ")[1] in (b"400", b"404", b"405", b"426")
    assert running.ask("/health")[0] == 200
