"""`/v1/embeddings` by OpenAI's client, over a real ring."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import wait_until
from serve_client import MODEL, Served, raw_request, served
from tiny_text_model import save_text_model
from transformers import AutoModel

from shardnet.serve.service import OPENING_THREADS, READING_THREADS
from shardnet.serve.settings import Settings

TEXTS = ["one", "another text", "one"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Served]:
    with served(folder, Settings(names=(MODEL,), most_tokens=100)) as one:
        yield one


@pytest.mark.parametrize("how", [{}, {"encoding_format": "float"}, {"extra_body": {"pooling": "mean"}}])
def test_each_text_has_its_vector(running: Served, folder: Path, how: dict[str, Any]) -> None:
    found = running.openai().embeddings.create(model=MODEL, input=TEXTS, **how)
    whole = AutoModel.from_pretrained(folder, dtype=torch.float32)
    for each, text in zip(found.data, TEXTS, strict=True):
        with torch.inference_mode():
            hidden = whole(torch.tensor([list(running.model.encode(text))])).last_hidden_state[0]
        expected = hidden.mean(0) if "extra_body" in how else hidden[-1]
        torch.testing.assert_close(torch.tensor(each.embedding), expected / expected.norm(), atol=1e-5, rtol=1e-4)
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, TEXTS))
    assert [each.index for each in found.data] == [0, 1, 2]


def test_ids_are_texts_too(running: Served) -> None:
    client = running.openai()
    ids = list(running.model.encode("one"))
    [one] = client.embeddings.create(model=MODEL, input="one").data
    assert client.embeddings.create(model=MODEL, input=ids).data == [one]
    assert [each.embedding for each in client.embeddings.create(model=MODEL, input=[ids, ids]).data] == [
        one.embedding
    ] * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, None),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * 101}, None),
        ({"input": [1, "a"]}, "input"),
        ({"input": [999_999]}, None),
        ({"dimensions": 8}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_what_cannot_be_done_is_refused(running: Served, fields: dict[str, Any], param: str | None) -> None:
    status, told, _ = running.ask("/v1/embeddings", {"model": MODEL, "input": "a", **fields})
    assert status == 400 and told["error"]["type"] == "invalid_request_error" and told["error"]["message"]
    assert param is None or told["error"]["param"].startswith(param)


def test_a_client_that_goes_away_has_no_more_read(running: Served) -> None:
    connection = running.connect()
    connection.sendall(raw_request({"model": MODEL, "input": ["b" * 90] * 2000}, "/v1/embeddings"))
    wait_until(lambda: running.num_sessions() > 0)
    connection.close()
    wait_until(lambda: running.num_sessions() == 0)


def test_many_texts_hold_up_no_chat(running: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they had the threads on which chats are opened."""
    may_go, begun = threading.Event(), []

    def embed(*_: Any, **__: Any) -> torch.Tensor:
        begun.append(1)
        may_go.wait(60)
        return torch.ones(1, 4)

    monkeypatch.setattr(running.model, "embed", embed)
    body = {"model": MODEL, "input": "one"}
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        try:
            told = [threads.submit(running.ask, "/v1/embeddings", body) for _ in range(OPENING_THREADS)]
            wait_until(lambda: len(begun) == READING_THREADS)
            assert running.chat()[0] == 200
        finally:
            may_go.set()
        assert {each.result()[0] for each in told} == {200}
