"""What texts and chats are in tokens, and what the model is called: several names, another length and template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serve_client import Served, chat, served
from tiny_text_model import save_text_model

from shardnet.release import __version__
from shardnet.serve.settings import Settings

TEMPLATE = "{% for each in messages %}<{{ each['content'] }}>{% endfor %}{% if add_generation_prompt %}>>{% endif %}"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = Settings(names=("first", "second"), most_tokens=64, template=TEMPLATE)
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False), settings) as one:
        yield one


def tokens_of(running: Served, **fields: Any) -> list[int]:
    status, told, _ = running.ask("/tokenize", fields)
    assert status == 200 and told["count"] == len(told["tokens"]) and told["max_model_len"] == 64
    return list(told["tokens"])


def test_there_and_back(running: Served) -> None:
    text = "hällo, 世界 \U0001f600"
    ids = tokens_of(running, prompt=text, model="second")
    assert ids == running.model.encode(text)
    assert running.ask("/detokenize", {"tokens": ids})[1] == {"prompt": text}
    assert running.ask("/tokenize", {"prompt": "ab", "return_token_strs": True})[1]["token_strs"] == ["a", "b"]
    assert tokens_of(running, prompt="") == []


def test_a_chat_is_what_an_answer_has_for_its_prompt(running: Served) -> None:
    ids = tokens_of(running, messages=HI)
    assert running.ask("/detokenize", {"tokens": ids})[1]["prompt"] == "<hi>>>"
    bare = tokens_of(running, messages=HI, add_generation_prompt=False)
    assert running.ask("/detokenize", {"tokens": bare})[1]["prompt"] == "<hi>"
    usage = running.chat(model="first")[1]["usage"]
    assert usage["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HI}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/tokenize", {"messages": HI, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "tea": 1}, "tea"),
        ("/tokenize", {"prompt": "a\ud800"}, None),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/detokenize", {"tokens": "ab"}, "tokens"),
    ],
)
def test_what_is_wrong_is_named(running: Served, path: str, fields: dict[str, Any], param: str | None) -> None:
    status, told, _ = running.ask(path, fields)
    assert status == 400 and (told["error"]["param"] or "").startswith(param or "")


def test_each_of_its_names_is_its_own(running: Served) -> None:
    assert [each["id"] for each in running.ask("/v1/models")[1]["data"]] == ["first", "second"]
    for name in ("first", "second"):
        assert running.ask(f"/v1/models/{name}")[1]["id"] == name
        assert running.chat(model=name)[1]["model"] == name
        assert running.ask("/v1/completions", {"model": name, "prompt": "ab", "max_tokens": 2})[0] == 200
        assert running.ask("/v1/embeddings", {"model": name, "input": "ab"})[0] == 200
    for path, body in (("/v1/chat/completions", chat(model="third")), ("/tokenize", {"model": "third", "prompt": "a"})):
        status, told, _ = running.ask(path, body)
        assert status == 404 and told["error"]["param"] == "model"
    assert running.ask("/v1/models/third")[0] == 404


def test_its_length_holds_for_all_that_it_reads(running: Served) -> None:
    long = "x" * 64
    asked = {
        "/v1/chat/completions": chat(model="first", messages=[{"role": "user", "content": long}]),
        "/v1/completions": {"model": "first", "prompt": long, "max_tokens": 2},
        "/v1/embeddings": {"model": "first", "input": long + "x"},
    }
    for path, body in asked.items():
        status, told, _ = running.ask(path, body)
        assert status == 400 and "64" in told["error"]["message"], path
    assert running.ask("/v1/models")[1]["data"][0]["max_model_len"] == 64
    told = running.chat(model="first", max_tokens=None)[1]
    assert told["usage"]["total_tokens"] == 64 and told["choices"][0]["finish_reason"] == "length"


def test_version(running: Served) -> None:
    assert running.ask("/version")[:2] == (200, {"version": __version__})
