"""Answers of a given form, through OpenAI's own client and in vLLM's words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel
from serve_client import MODEL, Served, served
from tiny_text_model import save_text_model

pytest.importorskip("openai")
pytest.importorskip("llguidance")
HI: Any = [{"role": "user", "content": "hi"}]
LARK = 'start: "<" /[a-z]{2,5}/ ">"'


class Colour(Enum):
    RED = "red"
    BLUE = "blü"


class Thing(BaseModel):
    colour: Colour
    count: int
    near: list[Colour] | None


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(save_text_model(tmp_path_factory.mktemp("constrained"))) as one:
        yield one


def test_a_class_of_pydantic_comes_back_as_one(running: Served) -> None:
    told = running.openai().chat.completions.parse(
        model=MODEL, messages=HI, max_tokens=2000, seed=1, temperature=1.0, response_format=Thing
    )
    assert isinstance(told.choices[0].message.parsed, Thing) and told.choices[0].finish_reason == "stop"


def test_a_stream_has_the_same_form(running: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    asked: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    texts = []
    for streams in (False, True):
        told = running.openai().chat.completions.create(
            model=MODEL, messages=HI, max_tokens=200, temperature=0, response_format=asked, stream=streams
        )
        if streams:
            texts.append("".join(each.choices[0].delta.content or "" for each in told))
        else:
            texts.append(told.choices[0].message.content)
    assert texts[0] == texts[1] and set(json.loads(texts[0])) == {"n"}


def test_any_object(running: Served) -> None:
    asked: Any = {"type": "json_object"}
    for seed in range(5):
        told = running.openai().chat.completions.create(
            model=MODEL, messages=HI, max_tokens=300, seed=seed, logit_bias={"125": 0}, response_format=asked
        )
        text = told.choices[0].message.content
        assert text.lstrip().startswith("{")
        if told.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"guided_regex": r"\d{3}"}, r"\d{3}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": LARK}, "<[a-z]{2,5}>"),
        ({"guided_json": {"enum": [1, 2]}}, r"\s*[12]"),
        ({"guided_json": '{"enum": [1, 2]}'}, r"\s*[12]"),
        ({"structured_outputs": {"regex": "a|b"}}, "[ab]"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"grammar": LARK}}, "<[a-z]{2,5}>"),
        ({"structured_outputs": {"json": {"const": None}}}, r"\s*null"),
    ],
)
@pytest.mark.parametrize("route", ["chat", "completion"])
def test_in_the_words_of_vllm(running: Served, extra: dict[str, Any], pattern: str, route: str) -> None:
    client, asked = running.openai(), {"model": MODEL, "max_tokens": 60, "seed": 3, "extra_body": extra}
    if route == "chat":
        text = client.chat.completions.create(messages=HI, **asked).choices[0].message.content
    else:
        text = client.completions.create(prompt="hi", **asked).choices[0].text
    assert re.fullmatch(pattern, text), text


def test_choices_have_each_its_own(running: Served) -> None:
    told = running.openai().chat.completions.create(
        model=MODEL, messages=HI, n=6, seed=1, temperature=1.0, max_tokens=20, extra_body={"guided_regex": r"\d{8}"}
    )
    texts = [each.message.content for each in told.choices]
    assert all(re.fullmatch(r"\d{8}", each) for each in texts) and len(set(texts)) > 1


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "Invalid value for response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "has a json_schema where, and only where"),
        (
            {"response_format": {"type": "text", "schema": {}}},
            "response_format.schema",
            "Unrecognized request argument",
        ),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "response_format.type",
            "cannot be combined with guided_regex",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "Invalid value for response_format.json_schema.name",
        ),
        ({"guided_regex": "(a"}, "grammar", "is not one that an answer can follow"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "grammar", "is not one that an answer can follow"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "cannot be kept"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens", "cannot be kept"),
    ],
)
def test_what_cannot_be_is_refused_by_name(running: Served, fields: dict[str, Any], param: str, sentence: str) -> None:
    status, told, _ = running.chat(**fields)
    assert status == 400 and told["error"]["param"] == param and sentence in told["error"]["message"], told
    assert running.chat()[0] == 200
