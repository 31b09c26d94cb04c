"""More requests than memory, and a device that is lost while answers are streamed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import ring_in_process
from processes import wait_until
from serve_client import MODEL, Served, chat, raw_request, served, serving
from tiny_text_model import save_text_model

from shardnet.serve.provider import OfOne
from shardnet.serve.settings import Limits, Settings

ROOM = 400_000
"""Bytes of keys and values of a stage: some hundred tokens."""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("endless"), ends=False)


@pytest.fixture
def tight(endless: Path) -> Iterator[Served]:
    limits = Limits(wait_s=30.0, waiting=20)
    with served(endless, Settings(names=(MODEL,), limits=limits), kv_memory_bytes=ROOM) as one:
        yield one


def test_more_than_there_is_memory_for_wait_and_are_answered(tight: Served) -> None:
    body = chat(max_tokens=80, n=2)
    with ThreadPoolExecutor(12) as threads:
        told = list(threads.map(lambda _: tight.ask("/v1/chat/completions", body), range(12)))
    assert [status for status, _, _ in told] == [200] * 12
    texts = {tuple(choice["message"]["content"] for choice in answer["choices"]) for _, answer, _ in told}
    assert len(texts) == 1
    wait_until(lambda: tight.num_sessions() == 0)


def test_who_does_not_get_memory_in_time_is_told_when_to_ask_again(endless: Path) -> None:
    limits = Limits(wait_s=0.5, waiting=1)
    with served(endless, Settings(names=(MODEL,), limits=limits), kv_memory_bytes=ROOM) as running:
        status, told, headers = running.chat(max_tokens=4000)
        assert status == 429 and told["error"]["code"] == "kv_memory_spent" and int(headers["Retry-After"]) >= 1
        assert running.chat()[0] == 200


def test_clients_that_leave_the_queue_hold_up_nobody(tight: Served) -> None:
    waiting = []
    for _ in range(8):
        connection = tight.connect()
        connection.sendall(raw_request(chat(max_tokens=4000)))
        waiting.append(connection)
    wait_until(lambda: tight.service.line.num_waiting >= 5)
    for connection in waiting:
        connection.close()
    assert tight.chat()[0] == 200
    wait_until(lambda: tight.num_sessions() == 0 and tight.service.line.num_waiting == 0)


def test_a_lost_device_changes_no_text(endless: Path) -> None:
    bodies: list[dict[str, Any]] = [
        chat(
            messages=[{"role": "user", "content": f"number {index}"}],
            max_tokens=60,
            temperature=index % 2,
            seed=index,
        )
        for index in range(12)
    ]

    def text_of(running: Served, body: dict[str, Any]) -> str:
        stream = running.openai().chat.completions.create(**body, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ring_in_process() as ring, ring.connect() as cluster:
        model = cluster.load(endless, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)
        with serving(OfOne(model), model, Settings(names=(MODEL,))) as running:
            alone = [text_of(running, body) for body in bodies]
            with ThreadPoolExecutor(12) as threads:
                told = [threads.submit(text_of, running, body) for body in bodies]
                wait_until(lambda: running.num_sessions() >= 6)
                ring.network.kill("c")
                assert [each.result() for each in told] == alone
            assert running.ask("/health")[0] == 200
            wait_until(lambda: running.num_sessions() == 0)


def test_no_ring_is_said(endless: Path) -> None:
    with ring_in_process(2) as ring, ring.connect() as cluster:
        model = cluster.load(endless, dtype="float32", split=[3, 3])
        with serving(OfOne(model), model, Settings(names=(MODEL,))) as running:
            assert running.ask("/health")[0] == 200
            model.close()
            wait_until(lambda: running.ask("/health")[0] == 503)
            assert running.chat()[0] in (400, 503)
