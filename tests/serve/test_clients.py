"""Clients that go away, read slowly, say half of it or too much, and many at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import wait_until
from serve_client import MODEL, Served, chat, raw_request, served
from tiny_text_model import save_text_model

from shardnet.serve.settings import Limits, Settings

LIMITS = Limits(body_bytes=2**16, header_bytes=2**13, body_s=1.0, headers_s=1.0, connections=40, stalled_s=2.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = save_text_model(tmp_path_factory.mktemp("endless"), ends=False)
    with served(folder, Settings(names=(MODEL,), limits=LIMITS)) as one:
        yield one


def first_bytes(connection: socket.socket, size: int = 12) -> bytes:
    said = b""
    while len(said) < size and (part := connection.recv(size - len(said))):
        said += part
    return said


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_session(running: Served, stream: bool) -> None:
    connection = running.connect()
    connection.sendall(raw_request(chat(max_tokens=4000, stream=stream, n=2)))
    wait_until(lambda: running.num_sessions() == 2)
    connection.close()
    wait_until(lambda: running.num_sessions() == 0)
    assert running.chat()[0] == 200


def test_one_that_goes_away_at_any_moment(running: Served) -> None:
    for moment in range(12):
        connection = running.connect()
        connection.sendall(raw_request(chat(max_tokens=200, stream=moment % 2 == 0)))
        time.sleep(moment * 0.002)
        connection.close()
    wait_until(lambda: running.num_sessions() == 0)
    assert not running.service._replies


def test_an_answer_does_not_wait_for_a_client_that_reads_nothing(running: Served) -> None:
    connection = running.connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.sendall(raw_request(chat(max_tokens=600, stream=True)))
    wait_until(lambda: running.num_sessions() == 1)
    wait_until(lambda: running.num_sessions() == 0)  # all of it was read from the ring
    connection.close()


def test_half_requests_end_and_disturb_nobody(running: Served) -> None:
    halves = [running.connect() for _ in range(10)]
    for index, connection in enumerate(halves):
        connection.sendall(raw_request(chat())[: 20 + 30 * index])
    assert running.chat()[0] == 200
    for connection in halves:
        first_bytes(connection, 2**16)  # ends, by whatever it is told
        connection.close()


def test_too_much(running: Served) -> None:
    long = chat(messages=[{"role": "user", "content": "x" * 2**17}])
    assert running.ask("/v1/chat/completions", long)[0] == 413
    connection = running.connect()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
    assert b"413" in first_bytes(connection)
    chunked = running.connect()
    chunked.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(OSError):
        for _ in range(200):
            chunked.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            time.sleep(0.01)
    headers = running.connect()
    headers.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2**15)
    assert b"400" in first_bytes(headers)
    for each in (connection, chunked, headers):
        each.close()
    assert running.chat()[0] == 200


def test_idle_connections_make_room(running: Served) -> None:
    idle = [running.connect() for _ in range(3 * LIMITS.connections)]
    assert running.chat()[0] == 200
    for connection in idle:
        connection.close()


def test_nonsense(running: Served) -> None:
    connection = running.connect()
    connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
    said = first_bytes(connection, 2**16)
    assert b"400" in said and json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_http"
    deep = b'{"model":' + b"[" * 30000 + b"]" * 30000 + b"}"
    assert running.ask("/v1/chat/completions", deep)[0] == 400
    surrogate = b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}'
    assert running.ask("/v1/chat/completions", surrogate)[0] == 400


def test_many_at_once_say_what_each_says_alone(running: Served) -> None:
    bodies = [chat(messages=[{"role": "user", "content": f"number {index}"}], max_tokens=24) for index in range(16)]
    alone = [running.ask("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"] for body in bodies]
    with ThreadPoolExecutor(16) as threads:
        told = list(threads.map(lambda body: running.ask("/v1/chat/completions", body), bodies))
    assert [each["choices"][0]["message"]["content"] for _, each, _ in told] == alone
    wait_until(lambda: running.num_sessions() == 0)
