"""How likely tokens were, through OpenAI's own client: as the library says it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serve_client import MODEL, Served, served
from tiny_text_model import save_text_model

pytest.importorskip("openai")
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False)) as one:
        yield one


def direct(running: Served, prompt: Any, num_tokens: int, **options: Any) -> Any:
    [found] = running.model.generate([prompt], max_new_tokens=num_tokens, **options)
    return found


def same(told: Any, found: Any) -> None:
    """Entries of a chat beside what the library says."""
    assert [each.token for each in told] == [each.text for each in found]
    assert [each.logprob for each in told] == pytest.approx([each.logprob for each in found])
    for one, other in zip(told, found, strict=True):
        assert [each.token for each in one.top_logprobs] == [each.text for each in other.alternatives]
        assert [each.logprob for each in one.top_logprobs] == pytest.approx([a.logprob for a in other.alternatives])
        assert one.bytes is None or bytes(one.bytes).decode() == one.token


@pytest.mark.parametrize("top", [None, 0, 4])
def test_of_a_chat(running: Served, top: int | None) -> None:
    asked = {"model": MODEL, "messages": HI, "max_tokens": 16, "temperature": 0, "logprobs": True}
    found = direct(running, HI, 16, logprobs=top or 0)
    beside = {} if top is None else {"top_logprobs": top}
    told = running.openai().chat.completions.create(**asked, **beside)
    assert told.choices[0].message.content == found.text
    same(told.choices[0].logprobs.content, found.logprobs)


def test_of_a_stream_each_comes_once_with_its_text(running: Served) -> None:
    found = direct(running, HI, 24, logprobs=2)
    stream = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=24, temperature=0, logprobs=True, top_logprobs=2, stream=True
    )
    told, text = [], ""
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            told += choice.logprobs.content if choice.logprobs else []
    assert text == found.text
    same(told, found.logprobs)


def test_of_several_choices(running: Served) -> None:
    told = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=9, temperature=1.0, seed=3, n=3, logprobs=True, top_logprobs=1
    )
    for index, choice in enumerate(told.choices):
        found = direct(running, HI, 9, temperature=1.0, seed=3 + index, logprobs=1)
        assert choice.message.content == found.text
        same(choice.logprobs.content, found.logprobs)


def test_of_a_completion(running: Served) -> None:
    found = direct(running, "the sea", 16, logprobs=2)
    for streams in (False, True):
        told = running.openai().completions.create(
            model=MODEL, prompt="the sea", max_tokens=16, temperature=0, logprobs=2, stream=streams
        )
        parts = [choice for each in (told if streams else [told]) for choice in each.choices]
        tokens = [token for part in parts for token in part.logprobs.tokens]
        offsets = [offset for part in parts for offset in part.logprobs.text_offset]
        values = [value for part in parts for value in part.logprobs.token_logprobs]
        tops = [top for part in parts for top in part.logprobs.top_logprobs]
        assert "".join(part.text for part in parts) == found.text
        assert tokens == [each.text for each in found.logprobs]
        assert values == pytest.approx([each.logprob for each in found.logprobs])
        assert [len(top) for top in tops] == [
            len({other.text for other in each.alternatives}) for each in found.logprobs
        ]
        assert offsets[0] == 0 and offsets == sorted(offsets) and offsets[-1] <= len(found.text)


def test_tokens_behind_a_stop_string_are_not_told(running: Served) -> None:
    free = direct(running, HI, 40)
    stop = next(sign for at, sign in enumerate(free.text) if at > 4 and sign not in free.text[:5] + "\ufffd")
    told = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=40, temperature=0, logprobs=True, stop=stop
    )
    text = free.text[: free.text.index(stop)]
    assert told.choices[0].message.content == text and told.choices[0].finish_reason == "stop"
    shown = "".join(each.token for each in told.choices[0].logprobs.content)
    assert len(told.choices[0].logprobs.content) < 40 and shown.startswith(text[:1])
    assert stop not in shown


def test_a_client_that_goes_away_ends_its_answer(running: Served) -> None:
    from processes import wait_until

    stream = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=3000, temperature=0, logprobs=True, stream=True
    )
    next(iter(stream))
    stream.close()
    wait_until(lambda: running.num_sessions() == 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(running: Served, fields: dict[str, Any], param: str) -> None:
    status, told, _ = running.chat(**fields)
    assert status == 400 and told["error"]["param"] == param
