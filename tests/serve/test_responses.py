"""`/v1/responses` through OpenAI's own client: whole, streamed, in turns, with tools, forms and thoughts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from serve_client import MODEL, Served, served
from tool_templates import HERMES, folder_with

from shardnet.serve.responses.store import Store

pytest.importorskip("openai")
pytest.importorskip("llguidance")
HI = "how is the sea?"
LOOK: Any = {
    "type": "function",
    "name": "look",
    "parameters": {
        "type": "object",
        "properties": {"at": {"enum": ["sea", "shore"]}},
        "required": ["at"],
        "additionalProperties": False,
    },
    "strict": True,
}
THINKING = HERMES.replace("answer:", "answer:{# </think> #}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(folder_with(tmp_path_factory.mktemp("responses"), THINKING)) as one:
        yield one


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Its answers are as long as was asked for."""
    with served(folder_with(tmp_path_factory.mktemp("endless"), THINKING, ends=False)) as one:
        yield one


def direct(running: Served, messages: Any, num_tokens: int) -> str:
    [found] = running.model.generate([messages], max_new_tokens=num_tokens, chat=True)
    return found.text


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_text_is_answered(endless: Served) -> None:
    told = endless.openai().responses.create(model=MODEL, input=HI, max_output_tokens=16, temperature=0)
    text = direct(endless, [user(HI)], 16)
    assert told.output_text == text and told.status == "incomplete"
    assert told.incomplete_details.reason == "max_output_tokens" and told.usage.output_tokens == 16
    assert told.usage.input_tokens == len(endless.model.encode([user(HI)], chat=True))
    [item] = told.output
    assert item.type == "message" and item.role == "assistant" and item.status == "incomplete"


def test_instructions_come_first_and_are_of_one_turn(running: Served) -> None:
    client = running.openai()
    asked: dict[str, Any] = {"model": MODEL, "max_output_tokens": 8, "temperature": 0}
    first = client.responses.create(input="one", instructions="be brief", **asked)
    system = {"role": "system", "content": "be brief"}
    assert first.output_text == direct(running, [system, user("one")], 8)
    second = client.responses.create(input="two", previous_response_id=first.id, **asked)
    answer = {"role": "assistant", "content": first.output_text}
    assert second.output_text == direct(running, [user("one"), answer, user("two")], 8)
    third = client.responses.create(input="three", previous_response_id=second.id, **asked)
    turns = [user("one"), answer, user("two"), {"role": "assistant", "content": second.output_text}, user("three")]
    assert third.output_text == direct(running, turns, 8)


def test_a_stream_tells_of_all_that_the_whole_has(endless: Served) -> None:
    asked: dict[str, Any] = {"model": MODEL, "input": HI, "max_output_tokens": 16, "temperature": 0}
    whole = endless.openai().responses.create(**asked)
    events = list(endless.openai().responses.create(stream=True, **asked))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    with endless.openai().responses.stream(**asked) as stream:  # which puts the events together by itself
        for _ in stream:
            pass
        with pytest.raises(RuntimeError, match="completed"):  # it was cut off by its length
            stream.get_final_response()


@pytest.mark.parametrize("streams", [False, True])
def test_thoughts_calls_and_text_are_items(running: Served, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<tool_call>{"name": "look", "arguments": {"at": "sea"}}</tool_call>'
    say(monkeypatch, f"<think>hm</think>let me see\n{call}")
    told = running.openai().responses.create(model=MODEL, input=HI, tools=[LOOK], stream=streams)
    if streams:
        events = list(told)
        told = events[-1].response
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert json.loads("".join(deltas)) == {"at": "sea"}
        thoughts = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
        assert "".join(thoughts) == "hm"
    assert told.status == "completed" and [item.type for item in told.output] == [
        "reasoning",
        "message",
        "function_call",
    ]
    thought, message, called = told.output
    assert thought.content[0].text == "hm" and message.content[0].text.strip() == "let me see"
    assert called.name == "look" and json.loads(called.arguments) == {"at": "sea"}


@pytest.mark.parametrize("by_id", [False, True])
def test_what_came_of_a_call_goes_back(running: Served, by_id: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    client = running.openai()
    with monkeypatch.context() as patch:
        say(patch, '<think>hm</think><tool_call>{"name": "look", "arguments": {"at": "sea"}}</tool_call>')
        first = client.responses.create(model=MODEL, input=HI, tools=[LOOK])
    called = first.output[-1]
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "calm"}
    asked: dict[str, Any] = {"model": MODEL, "tools": [LOOK], "max_output_tokens": 6, "temperature": 0}
    if by_id:
        told = client.responses.create(input=[result], previous_response_id=first.id, **asked)
    else:
        told = client.responses.create(input=[user(HI), *first.output, result], **asked)
    call = {"id": called.call_id, "type": "function", "function": {"name": "look", "arguments": {"at": "sea"}}}
    turns = [user(HI), {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "calm"}]
    tools = [{"type": "function", "function": {name: LOOK[name] for name in ("name", "parameters", "strict")}}]
    prompt = running.model.tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
    [found] = running.model.generate([prompt], max_new_tokens=6)
    assert told.output_text == found.text


def test_a_form(running: Served) -> None:
    class Sea(BaseModel):
        calm: bool

    told = running.openai().responses.parse(model=MODEL, input=HI, text_format=Sea, temperature=0)
    assert isinstance(told.output_parsed, Sea) and told.status == "completed"


def test_a_call_that_is_required(running: Served) -> None:
    for choice in ("required", {"type": "function", "name": "look"}):
        asked: dict[str, Any] = {"tools": [LOOK], "tool_choice": choice, "parallel_tool_calls": False}
        told = running.openai().responses.create(model=MODEL, input=HI, temperature=0, **asked)
        [call] = told.output
        assert json.loads(call.arguments)["at"] in ("sea", "shore")


def test_how_likely_tokens_were(endless: Served) -> None:
    asked: dict[str, Any] = {"model": MODEL, "input": HI, "max_output_tokens": 9, "temperature": 0, "top_logprobs": 2}
    whole = endless.openai().responses.create(include=["message.output_text.logprobs"], **asked)
    entries = whole.output[0].content[0].logprobs
    assert len(entries) == 9 and all(len(entry.top_logprobs) == 2 for entry in entries)
    events = list(endless.openai().responses.create(stream=True, **asked))
    told = [entry.token for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert "".join(told) and told == [entry.token for entry in entries][: len(told)]


def test_what_is_kept_can_be_had_and_deleted(running: Served) -> None:
    client = running.openai()
    told = client.responses.create(model=MODEL, input=HI, max_output_tokens=4)
    assert client.responses.retrieve(told.id).output_text == told.output_text
    [item] = client.responses.input_items.list(told.id).data
    assert item.content[0].text == HI
    client.responses.delete(told.id)
    unkept = client.responses.create(model=MODEL, input=HI, max_output_tokens=4, store=False)
    for gone in (told.id, unkept.id, "resp_none"):
        status, error, _ = running.ask(f"/v1/responses/{gone}")
        assert status == 404 and error["error"]["code"] == "response_not_found"
        status, error, _ = running.ask(
            "/v1/responses", {"model": MODEL, "input": HI, "previous_response_id": gone, "max_output_tokens": 2}
        )
        assert status == 400 and error["error"]["param"] == "previous_response_id"


def test_the_store_forgets_the_oldest_and_gives_each_client_its_own() -> None:
    store = Store(most=3, most_bytes=10_000)
    for number in range(5):
        store.keep("one", {"id": str(number)}, [], [])
    assert [name for name in "01234" if store.get("one", name)] == ["2", "3", "4"]
    assert store.get("other", "4") is None and not store.drop("other", "4") and store.drop("one", "4")
    store.keep("one", {"id": "big"}, [], [{"content": "x" * 20_000}])
    assert store.get("one", "big") is None and store.get("one", "3") is not None
    store.keep("one", {"id": "5"}, [], [{"content": "x" * 9_950}])
    assert store.get("one", "5") is not None and store.get("one", "3") is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"tool_choice": {"type": "function", "name": "fly"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_is_refused_by_name(running: Served, fields: dict[str, Any], param: str) -> None:
    status, told, _ = running.ask("/v1/responses", {"model": MODEL, "input": HI, "max_output_tokens": 4, **fields})
    assert status == 400 and told["error"]["param"].startswith(param.split("[")[0]), told


def say(patch: pytest.MonkeyPatch, text: str) -> None:
    """Have a model of random weights say just this: this route has no field for it."""
    from shardnet.serve import asked

    patch.setattr(asked, "form_of", lambda body: {"choice": [text]})


def test_a_client_that_goes_away_ends_its_answer(running: Served, tmp_path: Path) -> None:
    from processes import wait_until

    stream = running.openai().responses.create(model=MODEL, input=HI, max_output_tokens=3000, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: running.num_sessions() == 0)
