"""Good tiny models, copies of them with one thing damaged, and what must come of each: it works, or one sentence."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import save_model
from tiny_text_model import save_text_model

from shardnet.errors import UsageError
from shardnet.loader import glance_at, load_shard, open_model
from shardnet.models import Segment
from shardnet.session.prompts import encode
from shardnet.session.text import TextStream
from shardnet.stage.cache import KVCache

ALL_BYTES = 256


def save_good_model(variant: str, folder: Path) -> Path:
    """A whole folder: the weights of a tiny model of that kind, and a tokenizer of bytes."""
    if variant == "llama":
        return save_text_model(folder, num_blocks=2)
    tokens = folder.parent / "tokens"
    if not tokens.exists():
        save_text_model(tokens, num_blocks=1)
    save_model(variant, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokens / name, folder / name)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    """The same files anew, whatever was there."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Read a JSON file, change what is in it (in place, or by what `change` returns), and write it."""
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def change_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The same for the header of a safetensors file; the data stay as they are."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header if changed is None else changed).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[end:])


def sentence_of(model: Path, cache: Path) -> str | None:
    """What is said of a model that is refused; None where it works: opened, loaded, and asked for a few logits.

    Anything but a sentence of a UsageError passes through and fails the test.
    """
    try:
        work_with(model, cache)
    except UsageError as refused:
        text = str(refused)
        assert text and "\n" not in text and len(text) < 1000, text
        assert text.rstrip()[-1] in ".!", text
        return text
    return None


def work_with(model: Path, cache: Path) -> None:
    """All that the source and the devices do with a model's files, in one process."""
    glance_at(str(model), "float32", cache_dir=cache)
    files = open_model(str(model), "float32", cache_dir=cache)
    tokenizer = files.tokenizer()
    model_name, vocabulary = files.profile.name, files.profile.vocabulary
    if vocabulary >= ALL_BYTES:
        encode("Hello", tokenizer, chat=True, vocabulary=vocabulary, model=model_name)
    ids = encode("once", tokenizer, chat=False, vocabulary=vocabulary, model=model_name)[: files.profile.context_tokens]
    TextStream(tokenizer, ()).push(ids[0])
    last = files.profile.num_units - 1
    shard = load_shard(files.config, files.tensors_of(0, last), 0, last, "float32")
    cache_of_kv = KVCache(shard.kv_layout, shard.dtype)
    shard.forward(torch.tensor(ids), [Segment(cache_of_kv.open(0, len(ids)), len(ids))])
