"""Requests that nobody means: whatever comes, the answer is none of 500, and the ring goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import wait_until
from serve_client import MODEL, Served, chat, served

from shardnet.serve.bodies import ChatBody, CompletionBody

STATUSES: dict[int, int] = {}
"""How often each was answered."""
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.lists(st.integers(-5, 300), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-200, 200), max_size=3),
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), st.text(max_size=8)), max_size=3),
)
LIKELY = {
    "max_tokens": st.integers(1, 12),
    "max_completion_tokens": st.integers(1, 12),
    "n": st.integers(1, 3),
    "seed": st.integers(-(2**70), 2**70),
    "stop": st.one_of(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=5)),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 400),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.01, 5),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 300).map(str), st.floats(-100, 100), max_size=3),
    "min_tokens": st.integers(0, 5),
    "stop_token_ids": st.lists(st.integers(0, 300), max_size=3),
    "prompt": st.one_of(st.text(max_size=9), st.lists(st.text(max_size=4), max_size=3), st.lists(st.integers(-1, 280))),
    "stream": st.booleans(),
    "user": st.text(max_size=5),
}


def bodies(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    def field(name: str) -> st.SearchStrategy[Any]:
        return st.one_of(LIKELY[name], LIKELY[name], LIKELY[name], ODD) if name in LIKELY else ODD

    others = {name: field(name) for name in kind.model_fields if name not in ("model", "messages")}
    likely = {name: LIKELY[name] for name in others if name in LIKELY and name != "max_completion_tokens"}
    return st.one_of(st.fixed_dictionaries({}, optional=others), st.fixed_dictionaries({}, optional=likely))


@pytest.fixture(scope="module")
def running(tiny: Path) -> Iterator[Served]:
    with served(tiny) as one:
        yield one


def check(running: Served, path: str, body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, told, _ = running.ask(path, raw)
    STATUSES[status] = STATUSES.get(status, 0) + 1
    assert status in (200, 400, 404, 413, 429), (status, told)
    if status == 200 and isinstance(told, str):
        last = [line for line in told.split("\n\n") if line][-1]
        assert last == "data: [DONE]" or "error" in last
        assert '"internal_error"' not in told
    if status != 200:
        assert set(told["error"]) == {"message", "type", "param", "code"} and told["error"]["message"]


MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/health"])
def test_our_own_document(running: Served, path: str) -> None:
    """What it says can be sent is answered by what it says is answered."""
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json").include(path=path)

    [operation] = [each.ok() for each in schema.get_all_operations()]
    documented = {"200", *operation.definition.raw["responses"]}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body |= {"model": MODEL, "max_tokens": 3}
        answer = case.call(base_url=running.url)
        assert answer.status_code < 500
        assert str(answer.status_code) in documented

    send()


@MANY
@given(fields=bodies(ChatBody))
def test_chats(running: Served, fields: dict[str, Any]) -> None:
    check(running, "/v1/chat/completions", {**chat(), **fields})


@MANY
@given(fields=bodies(CompletionBody))
def test_completions(running: Served, fields: dict[str, Any]) -> None:
    check(running, "/v1/completions", {"model": MODEL, "prompt": "ab", "max_tokens": 4, **fields})


@MANY
@given(raw=st.one_of(st.binary(max_size=200), ODD.map(lambda body: json.dumps(body).encode())))
def test_what_is_no_body(running: Served, raw: bytes) -> None:
    check(running, "/v1/chat/completions", raw)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.binary(max_size=300))
def test_what_is_no_http(running: Served, said: bytes) -> None:
    with running.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n" + said)


def test_nothing_is_left(running: Served) -> None:
    wait_until(lambda: running.num_sessions() == 0)
    assert not running.service._replies and running.service.line.num_waiting == 0
    assert running.chat()[0] == 200
    assert STATUSES[200] > 20 and STATUSES[400] > 100
