"""Random JSON schemas: every answer that ends is valid, and the greedy one is the same for every split."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import ring_in_process
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")
NUM_TOKENS = 700
TOGETHER = 8
WORDS = ["a", "sea", "ü€", "日本", 'q"uote', "back\\slash", "new\nline", "x y", "😀", ""]
PATTERNS = ["^[a-c]{1,4}$", "^\\d{2}-\\d{2}$", "^(ja|nein)$", "^[A-Z][a-zé]{0,5}$"]


def schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random one, of which answers are short."""
    scalars = [text, whole, real, lambda _: {"type": "boolean"}, lambda _: {"type": "null"}, enumerated, constant]
    if depth < 3 and draw.random() < (1.0 if depth == 0 else 0.45):
        return draw.choice([thing, thing, array, either])(draw, depth)
    return draw.choice(scalars)(draw)


def text(draw: random.Random) -> dict[str, Any]:
    if draw.random() < 0.4:
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    return {"type": "string", "maxLength": draw.randrange(1, 9)}


def whole(draw: random.Random) -> dict[str, Any]:
    least = draw.randrange(-50, 50)
    return {"type": "integer", "minimum": least, "maximum": least + draw.randrange(0, 1000)}


def real(draw: random.Random) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "exclusiveMaximum": draw.randrange(1, 100)}


def enumerated(draw: random.Random) -> dict[str, Any]:
    return {"enum": [*draw.sample(WORDS, 3), draw.randrange(9), None, [1, {"k": "ö"}]]}


def constant(draw: random.Random) -> dict[str, Any]:
    return {"const": draw.choice([*WORDS, 17, True, {"fest": [1]}])}


def array(draw: random.Random, depth: int) -> dict[str, Any]:
    least = draw.randrange(0, 2)
    return {"type": "array", "items": schema(draw, depth + 1), "minItems": least, "maxItems": least + draw.randrange(3)}


def thing(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(["id", "näme", "x-y", "日", "last name", "_z"], draw.randrange(1, 4))
    return {
        "type": "object",
        "properties": {name: schema(draw, depth + 1) for name in names},
        "required": [name for name in names if draw.random() < 0.7],
        "additionalProperties": False,
    }


def either(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [schema(draw, depth + 1), schema(draw, depth + 1)]}


def answers(folder: Path, split: list[int], asked: list[dict[str, Any]]) -> list[tuple[str, str]]:
    with ring_in_process(len(split)) as ring, ring.connect() as cluster:
        with cluster.load(folder, dtype="float32", split=split, prefill_chunk_tokens=8) as model:
            return [
                found for first in range(0, len(asked), TOGETHER) for found in some(model, asked[first:][:TOGETHER])
            ]


def some(model: Model, asked: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Answers that share steps."""
    streams = [model.stream("as JSON:", max_new_tokens=NUM_TOKENS, json_schema=each) for each in asked]
    return [("".join(stream), stream.result.finish_reason) for stream in streams]


def check(folder: Path, num_schemas: int, splits: list[list[int]]) -> None:
    draw = random.Random(7)
    asked = [schema(draw) for _ in range(num_schemas)]
    first, *others = [answers(folder, split, asked) for split in splits]
    assert all(other == first for other in others)
    ended = [(text, each) for (text, reason), each in zip(first, asked, strict=True) if reason == "eos"]
    assert len(ended) > 0.8 * num_schemas
    for text, each in ended:
        jsonschema.validate(json.loads(text), each)


def test_some_schemas(tmp_path: Path) -> None:
    check(save_text_model(tmp_path), 12, [[6], [2, 2, 2]])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_three_hundred_schemas(tmp_path: Path) -> None:
    check(save_text_model(tmp_path), 300, [[6], [1, 5], [2, 2, 2]])
