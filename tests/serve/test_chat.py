"""Chats and completions through OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from serve_client import MODEL, Served, chat, served
from tiny_text_model import save_text_model

from shardnet.serve.answer import Answer
from shardnet.serve.chat_shape import ChatShape
from shardnet.serve.reply import Piece
from shardnet.serve.shapes import Named

pytest.importorskip("openai")
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model whose answers are as long as was asked for."""
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False)) as one:
        yield one


def direct(running: Served, num_tokens: int, **options: Any) -> str:
    [result] = running.model.generate([HI], max_new_tokens=num_tokens, **options)
    return result.text


def test_a_chat_is_what_the_model_says(running: Served) -> None:
    told = running.openai().chat.completions.create(model=MODEL, messages=HI, max_tokens=12, temperature=0)
    assert told.choices[0].message.content == direct(running, 12)
    assert told.choices[0].message.role == "assistant" and told.choices[0].finish_reason == "length"
    assert told.object == "chat.completion" and told.model == MODEL
    assert told.usage.completion_tokens == 12
    assert told.usage.total_tokens == told.usage.prompt_tokens + 12
    assert told.usage.prompt_tokens == len(running.model.encode(HI))


def test_a_stream_is_the_same_in_pieces(running: Served) -> None:
    stream = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [each.choices[0].delta.content or "" for each in chunks if each.choices]
    assert "".join(pieces) == direct(running, 12) and len(pieces) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert len({each.id for each in chunks}) == 1


def test_what_the_prompt_shares_with_earlier_ones_is_told(running: Served) -> None:
    client = running.openai()
    long = [{"role": "user", "content": "the same long question " * 10}]
    asked = {"model": MODEL, "messages": long, "max_tokens": 2, "temperature": 0}
    client.chat.completions.create(**asked)
    usage = client.chat.completions.create(**asked).usage
    assert usage.prompt_tokens - 8 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_completions_of_several_prompts(running: Served) -> None:
    told = running.openai().completions.create(model=MODEL, prompt=["ab", "cd"], max_tokens=6, temperature=0)
    alone = [result.text for result in running.model.generate(["ab", "cd"], max_new_tokens=6)]
    assert [each.text for each in told.choices] == alone
    assert [each.index for each in told.choices] == [0, 1]
    assert told.usage.completion_tokens == 12


def test_each_prompt_counts_once(running: Served) -> None:
    """Once only the first one did."""
    prompts = ["ab", "some more words"]
    told = running.openai().completions.create(model=MODEL, prompt=prompts, n=3, max_tokens=2)
    assert told.usage.prompt_tokens == sum(len(running.model.encode(each)) for each in prompts)
    assert told.usage.completion_tokens == 12


def test_what_no_text_comes_of_ends_with_a_word_and_is_in_the_log(
    running: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once nobody heard of it: the client waited for ever, and other answers for the next token of any."""

    def fail(*_: Any) -> str:
        raise ValueError("no such token")

    with monkeypatch.context() as patched:
        patched.setattr(Answer, "take", fail)
        status, told, _ = running.chat()
        assert status == 500 and told["error"]["code"] == "internal_error"
        _, streamed, _ = running.chat(stream=True)
        assert "internal_error" in streamed.split("\n\n")[-2] and "[DONE]" not in streamed
    assert [str(each.exc_info[1]) for each in caplog.records if each.exc_info] == ["no such token"] * 2
    wait_until(lambda: running.num_sessions() == 0)


def test_choices_have_seeds_of_their_own(running: Served) -> None:
    asked = {"model": MODEL, "messages": HI, "max_tokens": 12, "temperature": 1.5, "n": 3, "seed": 7}
    texts = [each.message.content for each in running.openai().chat.completions.create(**asked).choices]
    again = [each.message.content for each in running.openai().chat.completions.create(**asked).choices]
    assert texts == again and len(set(texts)) == 3
    assert texts[1] == direct(running, 12, temperature=1.5, seed=8)


def test_choices_are_streamed_beside_each_other(running: Served) -> None:
    asked = {"model": MODEL, "messages": HI, "max_tokens": 12, "temperature": 1.5, "n": 2, "seed": 7}
    texts = {0: "", 1: ""}
    for chunk in running.openai().chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = running.openai().chat.completions.create(**asked).choices
    assert [texts[0], texts[1]] == [each.message.content for each in whole]


def test_stop_strings_end_it(running: Served) -> None:
    whole = direct(running, 12)
    stop = whole[4:6]
    told = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=12, temperature=0, stop=[stop, "never"]
    )
    assert told.choices[0].message.content == whole[: whole.index(stop)]
    assert told.choices[0].finish_reason == "stop"


def test_options_reach_the_model(running: Served) -> None:
    options = {"presence_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": {"65": 5.0}, "min_tokens": 3}
    told = running.chat(max_tokens=12, **options)[1]["choices"][0]
    assert told["message"]["content"] == direct(running, 12, **options) != direct(running, 12)
    [ids] = [result.token_ids for result in running.model.generate([HI], max_new_tokens=12)]
    ended = running.chat(max_tokens=12, stop_token_ids=[ids[5]])
    assert ended[1]["choices"][0]["finish_reason"] == "stop" and ended[1]["usage"]["completion_tokens"] <= 6
    assert running.chat(logit_bias={"99999": 1.0})[1]["error"]["param"] == "logit_bias"


def test_what_the_authors_propose_holds_where_a_request_says_nothing(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "proposed", ends=False)
    told = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**told, "temperature": 0.9, "repetition_penalty": 1.3}))
    with served(folder) as running:  # greedily, as they do not say that tokens are sampled
        said = running.chat(temperature=None, max_tokens=12)[1]["choices"][0]["message"]["content"]
        assert said == direct(running, 12, repetition_penalty=1.3)
        plain = running.chat(repetition_penalty=1, max_tokens=12)[1]["choices"][0]["message"]["content"]
        assert plain == direct(running, 12) != said


def test_models_are_listed(running: Served) -> None:
    client = running.openai()
    [only] = client.models.list().data
    assert only.id == MODEL and client.models.retrieve(MODEL).id == MODEL


def test_health_and_metrics(running: Served) -> None:
    assert running.ask("/health")[:2] == (200, {"status": "ok"})
    running.chat()
    status, text, _ = running.ask("/metrics")
    assert status == 200 and "shardnet_generated_tokens_total" in text
    assert running.ask("/cluster/status")[1]["stages"][0]["device"] == "a"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tea": 1}, "tea"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 5000}, None),
    ],
)
def test_what_is_wrong_is_named(running: Served, fields: dict[str, Any], param: str | None) -> None:
    status, told, _ = running.chat(**fields)
    assert status == 400 and told["error"]["type"] == "invalid_request_error"
    assert (told["error"]["param"] or "").startswith(param or "")
    assert set(told["error"]) == {"message", "type", "param", "code"}


def test_other_mistakes(running: Served) -> None:
    assert running.chat(model="gpt-4")[0] == 404
    assert running.ask("/v1/chat/completions", b"{")[0] == 400
    assert running.ask("/v1/chat/completions", b"[]")[0] == 400
    assert running.ask("/v2/nothing")[0] == 404
    assert running.ask("/v1/models", chat())[0] == 405
    status, _told, headers = running.chat(seed=1)
    assert status == 200 and headers["x-request-id"].startswith("req_")


def test_what_some_clients_take_for_the_end_of_a_line_is_none() -> None:
    """httpx did, in the midst of an event with U+2028."""
    shape = ChatShape(Named("1", 1, MODEL), includes_usage=False)
    text = "a\u2028b\x85c\ud800d\r\ne"
    said = shape.piece(Piece(0, text, "stop")).decode()
    told = [json.loads(line.removeprefix("data: ")) for line in said.splitlines() if line]
    assert [each["choices"][0]["delta"].get("content") for each in told] == [text, None]
