"""Who may ask: pure, and at a server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_certificate import make_certificate
from processes import wait_until
from serve_client import MODEL, Served, served

from shardnet.errors import UsageError
from shardnet.serve.errors import ApiError
from shardnet.serve.guard import Guard
from shardnet.serve.server import tls_context
from shardnet.serve.settings import Settings

KEY = "a-key-of-some-length"
HERE = {"host": "127.0.0.1:8000"}


def status(settings: Settings, path: str = "/v1/models", **headers: str) -> int:
    told = {**HERE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        Guard(settings, "http").check(path, told)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "192.168.1.7", "ours:80"])
def test_names_that_are_ours(host: str) -> None:
    assert status(Settings(hosts=("ours",)), host=host) == 200


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "a@localhost", "localhost/x", "[::1"])
def test_names_that_are_not(host: str) -> None:
    """DNS rebinding: a web page's own name means this machine by now."""
    assert status(Settings(), host=host) == 421


def test_web_pages_elsewhere() -> None:
    assert status(Settings(), origin="http://127.0.0.1:8000") == 200
    assert status(Settings(), origin="http://127.0.0.1:8001") == 403
    assert status(Settings(), origin="https://127.0.0.1:8000") == 403
    assert status(Settings(), origin="null") == 403
    assert status(Settings(), sec_fetch_site="cross-site") == 403
    assert status(Settings(), sec_fetch_site="same-origin") == 200
    assert status(Settings(), "/", sec_fetch_site="cross-site") == 200
    assert status(Settings(origins=("https://chat.example",)), origin="https://chat.example") == 200


def test_keys() -> None:
    settings = Settings(keys=("another-key-of-ours", KEY))
    assert status(settings, authorization=f"Bearer {KEY}") == 200
    assert status(settings, authorization=f"bearer {KEY}") == 200
    for wrong in ("", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ", KEY, "Bearer \udcff"):
        assert status(settings, authorization=wrong) == 401
    assert status(settings, "/health") == status(settings, "/") == status(settings, "/static/page.js") == 200
    assert status(settings, "/metrics") == status(settings, "/cluster/status") == 401


@pytest.fixture(scope="module")
def running(tiny: Path) -> Iterator[Served]:
    with served(tiny, Settings(keys=(KEY,), names=(MODEL, "second"), origins=("https://chat.example",))) as one:
        yield one


def test_a_server_with_a_key(running: Served) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        running.openai().models.list()
    names = [each.id for each in running.openai(api_key=KEY).models.list().data]
    assert names == [MODEL, "second"]
    told = running.openai(api_key=KEY).chat.completions.create(
        model="second", messages=[{"role": "user", "content": "hi"}], max_tokens=2
    )
    assert told.model == "second"


def test_a_refusal_says_what_it_is(running: Served) -> None:
    refused, told, headers = running.chat()
    assert refused == 401 and told["error"]["code"] == "invalid_api_key"
    assert headers["x-request-id"] and headers["x-content-type-options"] == "nosniff"
    key = {"Authorization": f"Bearer {KEY}"}
    assert running.ask("/v1/models", headers={**key, "Host": "evil.example"})[0] == 421
    assert running.ask("/v1/models", headers={**key, "Origin": "https://evil.example"})[0] == 403
    assert running.ask("/v1/models", headers={**key, "X-Request-Id": "mine-7"})[2]["x-request-id"] == "mine-7"


def test_a_page_that_may_use_it_can_read_what_it_says(running: Served) -> None:
    ours = {"Origin": "https://chat.example"}
    with running.connect() as connection:
        asked = "OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: {}\r\nConnection: close\r\n\r\n"
        connection.sendall(asked.format(ours["Origin"]).encode())
        said = connection.makefile("rb").read().lower()
    assert b" 204 " in said and b"access-control-allow-headers: authorization" in said
    with running.connect() as connection:  # OpenAI's client in JavaScript says with what it runs
        asked = asked.replace(
            "\r\nConnection", "\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\nConnection"
        )
        connection.sendall(asked.format(ours["Origin"]).encode())
        assert (
            b"access-control-allow-headers: authorization,x-stainless-os\r\n"
            in connection.makefile("rb").read().lower()
        )
    told = running.ask("/v1/models", headers={**ours, "Authorization": f"Bearer {KEY}"})
    assert told[0] == 200 and told[2]["Access-Control-Allow-Origin"] == ours["Origin"]
    assert running.ask("/v1/models", headers=ours)[0] == 401
    assert running.ask("/health")[2]["Access-Control-Allow-Origin"] is None


def test_a_request_may_not_ask_for_any_number_of_answers(running: Served) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    body = {"model": MODEL, "prompt": ["a"] * 100, "n": 2, "max_tokens": 2}
    status, told, _ = running.ask("/v1/completions", body, key)
    assert status == 400 and told["error"]["param"] == "prompt"


def test_a_request_is_one_line_of_the_log(running: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Once a path with %0A in it wrote lines of its own."""
    caplog.set_level(logging.INFO, "shardnet.serve")
    running.ask("/v1/%0Areq_0%20GET%20/%1B[2J", headers={"Authorization": f"Bearer {KEY}"})
    wait_until(lambda: any("req_0" in each.getMessage() for each in caplog.records))
    assert all(each.getMessage().isprintable() for each in caplog.records)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    locked = serialization.BestAvailableEncryption(b"secret")
    made = ec.generate_private_key(ec.SECP256R1())
    kind = serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(made.private_bytes(serialization.Encoding.PEM, kind, locked))
    make_certificate(tmp_path / "other.pem", tmp_path / "cert.pem")
    with pytest.raises(UsageError, match="without a password"):
        tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
