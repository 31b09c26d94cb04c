"""Tools through OpenAI's own client: offered by the chat template, called, answered, streamed, forced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_client import MODEL, Served, served
from tiny_text_model import save_text_model
from tool_templates import HERMES, folder_with

pytest.importorskip("openai")
pytest.importorskip("llguidance")
HI: Any = [{"role": "user", "content": "how is the sea?"}]
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "looks at a place",
        "parameters": {
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/place"}, "times": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["at", "times"],
            "additionalProperties": False,
            "$defs": {"place": {"enum": ["sea", "shöre"]}},
        },
    },
}
WAIT = {"type": "function", "function": {"name": "wait"}}
ODD = {"type": "function", "function": {"name": "a", "parameters": {"type": "thing"}}}
TOOLS: Any = [LOOK, WAIT]
CALL = '{"name": "look", "arguments": {"at": "sea", "times": 2}}'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(folder_with(tmp_path_factory.mktemp("tools"), HERMES)) as one:
        yield one


def said(text: str, **more: Any) -> dict[str, Any]:
    """A request to which a model of random weights says just this."""
    return {"model": MODEL, "messages": HI, "max_tokens": 400, "extra_body": {"guided_choice": [text]}, **more}


def streamed(chunks: Any) -> tuple[str, list[dict[str, str]], str]:
    """Text, calls, and why it ended."""
    text, calls, reason = "", {}, ""
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                one = calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                one["id"] += call.id or ""
                one["name"] += call.function.name or ""
                one["arguments"] += call.function.arguments or ""
            reason = choice.finish_reason or reason
    return text, [calls[index] for index in sorted(calls)], reason


@pytest.mark.parametrize("streams", [False, True])
def test_a_call_comes_back_as_one(running: Served, streams: bool) -> None:
    text = f"let me see\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"
    told = running.openai().chat.completions.create(**said(text, tools=TOOLS, stream=streams))
    if streams:
        content, calls, reason = streamed(told)
    else:
        message, reason = told.choices[0].message, told.choices[0].finish_reason
        content = message.content
        calls = [{"id": c.id, "name": c.function.name, "arguments": c.function.arguments} for c in message.tool_calls]
    assert content.strip() == "let me see" and reason == "tool_calls"
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
        ("look", {"at": "sea", "times": 2})
    ] * 2
    assert len({call["id"] for call in calls}) == 2


def test_one_call_where_one_is_asked_for(running: Served) -> None:
    text = f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>"
    told = running.openai().chat.completions.create(**said(text, tools=TOOLS, parallel_tool_calls=False))
    assert len(told.choices[0].message.tool_calls) == 1 and told.choices[0].message.content is None


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_it_is_text(running: Served, more: dict[str, Any]) -> None:
    text = f"<tool_call>{CALL}</tool_call>"
    told = running.openai().chat.completions.create(**said(text, **more))
    assert told.choices[0].message.content == text and told.choices[0].message.tool_calls is None
    assert told.choices[0].finish_reason == "stop"


def test_the_template_is_told_of_tools_and_of_what_came_of_calls(running: Served) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}}
    messages: Any = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "calm"},
    ]
    asked = {"model": MODEL, "messages": messages, "max_tokens": 6, "temperature": 0, "tools": TOOLS}
    told = running.openai().chat.completions.create(**asked)
    call["function"]["arguments"] = {"at": "sea"}  # type: ignore[index]  # as templates want it
    prompt = running.model.tokenizer.apply_chat_template(
        [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "calm"}],
        tools=TOOLS,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert "tools:look wait" in prompt and '<tool_call>look {"at": "sea"}</tool_call>' in prompt
    assert told.usage.prompt_tokens == len(running.model.encode(prompt))
    [found] = running.model.generate([prompt], max_new_tokens=6)
    assert told.choices[0].message.content == found.text


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_required_is_valid(running: Served, seed: int, streams: bool) -> None:
    told = running.openai().chat.completions.create(
        model=MODEL,
        messages=HI,
        max_tokens=900,
        seed=seed,
        tools=TOOLS,
        tool_choice="required",
        stream=streams,
        parallel_tool_calls=False,
    )
    if streams:
        content, [call], reason = streamed(told)
        name, arguments = call["name"], call["arguments"]
    else:
        message, reason = told.choices[0].message, told.choices[0].finish_reason
        [one] = message.tool_calls
        content, name, arguments = message.content, one.function.name, one.function.arguments
    assert not content and reason == "tool_calls"
    found = json.loads(arguments)
    assert found == {} if name == "wait" else found["at"] in ("sea", "shöre") and 1 <= found["times"] <= 9


def test_the_tool_that_is_named_is_called(running: Served) -> None:
    asked: Any = {"type": "function", "function": {"name": "look"}}
    told = running.openai().chat.completions.create(
        model=MODEL, messages=HI, max_tokens=900, seed=1, tools=TOOLS, tool_choice=asked
    )
    [call] = told.choices[0].message.tool_calls
    assert call.function.name == "look" and json.loads(call.function.arguments)["at"] in ("sea", "shöre")


def test_thoughts_come_apart(tmp_path: Path) -> None:
    template = HERMES.replace("answer:", "answer:{% if enable_thinking is not defined %}<think>\n{% endif %}</think>")
    template = template.replace("{% endif %}</think>", "{% endif %}{# </think> #}")
    with served(folder_with(tmp_path, template)) as running:
        client = running.openai()
        told = client.chat.completions.create(**said("so it is\n</think>\n\ncalm", tools=TOOLS))
        assert told.choices[0].message.reasoning_content == "so it is\n" and told.choices[0].message.content == "calm"
        chunks = list(client.chat.completions.create(**said("hm</think>calm", stream=True)))
        thoughts = [getattr(choice.delta, "reasoning_content", None) for each in chunks for choice in each.choices]
        assert "".join(each or "" for each in thoughts) == "hm" and streamed(chunks)[0] == "calm"
        asked = said("calm")
        asked["extra_body"]["chat_template_kwargs"] = {"enable_thinking": False}
        told = client.chat.completions.create(**asked)
        assert told.choices[0].message.content == "calm" and not hasattr(told.choices[0].message, "reasoning_content")


def test_a_model_whose_template_knows_no_tools_says_so(tmp_path: Path) -> None:
    with served(save_text_model(tmp_path)) as running:
        status, told, _ = running.chat(tools=TOOLS)
        assert status == 400 and told["error"]["param"] == "tools" and "its chat template knows none" in str(told)
        assert running.chat(tools=TOOLS, tool_choice="none")[0] == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [LOOK, LOOK]}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "required", "guided_regex": "a"}, "tool_choice"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "thing"}}}],
                "tool_choice": "required",
            },
            "grammar",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs"),
        ({"functions": [{"name": "x"}]}, "functions"),
    ],
)
def test_what_cannot_be_is_refused_by_name(running: Served, fields: dict[str, Any], param: str) -> None:
    status, told, _ = running.chat(**fields)
    assert status == 400 and told["error"]["param"] == param, told
