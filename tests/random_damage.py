"""Damage to model files, drawn at random: values, bytes, whole entries."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from damaged_models import change_header, change_json, copy_of
from hypothesis import strategies as st

from shardnet.foreign.config_bounds import ALIASES, FIELDS, LISTED
from shardnet.loader.gguf.header import read_header

VARIANTS = ("llama", "gpt2", "gemma2", "qwen3_moe", "phi3", "gptj", "falcon-new", "opt", "ministral3", "bloom")
EVIL = st.sampled_from(
    [-64, -4, -1, 0, 1, 2, 3, 7, 10**9, 10**12, 10**18, 2**31, 2**32 - 1, 1e12, 0.5, -0.5, 1e-300, 1e300, float("nan"),
     float("inf"), "evil", "x", "", None, True, False, [], {}, [1], [[]], [None], {"a": {}}, {"rope_type": "evil"},
     {"type": "linear"}, {"rope_type": "linear", "factor": 0}, {"rope_type": "llama3"}, {"type": "yarn", "factor": 4.0},
     {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}, ["sliding_attention"] * 3, ["evil"] * 3]
)  # fmt: skip
KEYS = st.sampled_from([*FIELDS, *(alias for aliases in ALIASES.values() for alias in aliases), *LISTED])


def damage_config(good: dict[str, Path], folder: Path, data: st.DataObject) -> None:
    copy_of(good[data.draw(st.sampled_from(VARIANTS))], folder)

    def change(content: dict[str, Any]) -> None:
        key = data.draw(st.one_of(st.sampled_from(sorted(content)), KEYS))
        if isinstance(content.get(key), dict) and content[key] and data.draw(st.booleans()):
            content, key = content[key], data.draw(st.sampled_from(sorted(content[key])))
        if data.draw(st.integers(0, 9)) == 0:
            content.pop(key, None)
        else:
            content[key] = data.draw(EVIL)

    change_json(folder / "config.json", change)


def damage_values(data: st.DataObject, content: Any) -> None:
    """Change one value of a JSON document, wherever it is."""
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        places += [(each, key) for key in keys]
        waiting += [each[key] for key in keys]
    place, key = places[data.draw(st.integers(0, len(places) - 1))]
    place[key] = data.draw(EVIL)


def damage_bytes(random: Random, content: bytes, first: int = 0, end: int | None = None) -> bytes:
    """Turn a few bits over; cut the rest off, sometimes."""
    end = len(content) if end is None else end
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        changed[random.randrange(first, end)] ^= 1 << random.randrange(8)
    return bytes(changed[: random.randrange(first, end)] if random.random() < 0.1 else changed)


def damage_header(good: dict[str, Path], folder: Path, data: st.DataObject) -> None:
    path = copy_of(good[data.draw(st.sampled_from(VARIANTS))], folder) / "model.safetensors"
    if data.draw(st.booleans()):
        change_header(path, lambda entries: damage_values(data, entries))
        return
    raw = path.read_bytes()
    path.write_bytes(damage_bytes(data.draw(st.randoms()), raw, 0, 8 + int.from_bytes(raw[:8], "little")))


def damage_index(good: dict[str, Path], folder: Path, data: st.DataObject) -> None:
    copy_of(good["llama"], folder)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    raw = (folder / "model-1.safetensors").read_bytes()
    names = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    names.pop("__metadata__", None)
    content = {"metadata": {"total_size": len(raw)}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    path = folder / "model.safetensors.index.json"
    if data.draw(st.booleans()):
        damage_values(data, content)
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(damage_bytes(data.draw(st.randoms()), json.dumps(content).encode()))


def damage_tokenizer(good: dict[str, Path], folder: Path, data: st.DataObject) -> None:
    copy_of(good["llama"], folder)
    path = folder / data.draw(st.sampled_from(("tokenizer.json", "tokenizer_config.json")))
    if data.draw(st.booleans()):
        change_json(path, lambda content: damage_values(data, content))
    else:
        path.write_bytes(damage_bytes(data.draw(st.randoms()), path.read_bytes()))


DAMAGES = {
    "config": damage_config,
    "header": damage_header,
    "index": damage_index,
    "tokenizer": damage_tokenizer,
}


def damage_a_gguf(good_gguf: dict[str, bytes], path: Path, data: st.DataObject) -> None:
    raw = good_gguf[data.draw(st.sampled_from(sorted(good_gguf)))]
    path.write_bytes(raw)
    end = min(tensor.offset for tensor in read_header(path).tensors)
    random = data.draw(st.randoms())
    if data.draw(st.booleans()):
        path.write_bytes(damage_bytes(random, raw, 0, end))
        return
    at = random.randrange(end - 8) & ~3
    value = random.choice((0, 1, 2, 3, 7, 255, 10**6, 2**31, 2**32 - 1))
    path.write_bytes(raw[:at] + struct.pack("<I", value) + raw[at + 4 :])
