"""Model files that are not believed: each damaged one works nevertheless, or is refused with one sentence.

240 damaged folders and files were tried in November 2026. 64 ended as "a mistake in shardnet", hung (a pipe as
config.json; 2**32 - 1 blocks), or ate memory (a link to /dev/zero: 23 GiB); some nonsense was believed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damaged_models import change_header, change_json, copy_of, save_good_model, sentence_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_damage import DAMAGES, VARIANTS, damage_a_gguf
from tiny_gguf import write_gguf

from shardnet.errors import DamagedCheckpoint
from shardnet.loader import glance_at
from shardnet.loader.gguf.header import read_header

Change = Callable[[Path], Any]
MOST_GROWTH_KB = 250_000
FEW = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=3000)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    return {variant: save_good_model(variant, folder / variant) for variant in VARIANTS}


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("gguf")
    kinds = (("llama", "F16"), ("llama", "Q8_0"), ("qwen3moe", "Q4_0"))
    return {f"{name}-{kind}": write_gguf(folder / f"{name}-{kind}", name, kind).read_bytes() for name, kind in kinds}


def test_the_good_ones_work(good: dict[str, Path], good_gguf: dict[str, bytes], tmp_path: Path) -> None:
    for folder in good.values():
        assert sentence_of(folder, tmp_path / "cache") is None
    for name, data in good_gguf.items():
        (tmp_path / f"{name}.gguf").write_bytes(data)
        assert sentence_of(tmp_path / f"{name}.gguf", tmp_path / "cache") is None


def config(**changes: Any) -> Change:
    return lambda folder: change_json(folder / "config.json", lambda content: content.update(changes))


def rope(**changes: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["rope_parameters"].update(changes)

    return lambda folder: change_json(folder / "config.json", change)


def written(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def replaced(name: str, make: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda folder: change_header(folder / "model.safetensors", change)


def index(name: Any) -> Change:
    def change(folder: Path) -> None:
        names = ["model.norm.weight"]
        content = {"weight_map": dict.fromkeys(names, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


def overlap(entries: dict[str, Any]) -> None:
    first, second = [entry for name, entry in entries.items() if name.endswith("layernorm.weight")][:2]
    second["data_offsets"] = first["data_offsets"]


def infinite(entries: dict[str, Any]) -> bytes:
    entries["model.norm.weight"]["data_offsets"] = [0, "INFINITE"]
    return json.dumps(entries).replace('"INFINITE"', "Infinity").encode()


NAMED: dict[str, tuple[Change, str]] = {
    "hidden_size -64": (config(hidden_size=-64), "hidden_size must be a whole number, 1 or more, but is -64"),
    "hidden_size 1e12": (config(hidden_size=10**12), "hidden_size must be a whole number, at most"),
    "hidden_size 65536": (config(hidden_size=65536, head_dim=16), "which takes at least .* weights, and .* hold"),
    "vocab_size -1": (config(vocab_size=-1), "vocab_size must be"),
    "vocab_size 1e6": (
        config(vocab_size=10**6),
        "1000000 tokens of the width 64, which takes at least 64000000 weights",
    ),
    "heads 0": (config(num_attention_heads=0), "num_attention_heads must be"),
    "heads -4": (config(num_attention_heads=-4), "num_attention_heads must be"),
    "key-value heads 0": (config(num_key_value_heads=0), "num_key_value_heads must be"),
    "key-value heads -2": (config(num_key_value_heads=-2), "num_key_value_heads must be"),
    "head_dim 0": (config(head_dim=0), "head_dim must be"),
    "head_dim -16": (config(head_dim=-16), "head_dim must be"),
    "intermediate_size -1": (config(intermediate_size=-1), "intermediate_size must be"),
    "intermediate_size 1e18": (config(intermediate_size=10**18), "intermediate_size must be"),
    "hidden_act evil": (config(hidden_act="evil"), "hidden_act must be one of"),
    "rope_type evil": (rope(rope_type="evil"), "rope_type must be one of"),
    "rope_scaling evil": (config(rope_scaling={"type": "evil"}), "rope_scaling.type must be one of"),
    "rope_theta x": (rope(rope_theta="x"), "rope_theta must be a number"),
    "rope_theta 0": (rope(rope_theta=0), "rope_theta must be a number, greater than 0"),
    "rms_norm_eps NaN": (config(rms_norm_eps=float("nan")), "has NaN, which is no number of JSON"),
    "quantization_config 5": (config(quantization_config=5), "quantization_config must be an object"),
    "dtype float99": (config(dtype="float99"), "dtype must be one of"),
    "pad_token_id 1e9": (config(pad_token_id=10**9), "pad_token_id is 1000000000, and its vocabulary has 257 tokens"),
    "eos -1": (config(eos_token_id=-1), "eos_token_id must be"),
    "eos -1 elsewhere": (
        written("generation_config.json", '{"eos_token_id": [1, -1]}'),
        "eos_token_id of .* should be",
    ),
    "context 0": (config(max_position_embeddings=0), "max_position_embeddings must be"),
    "context 1e18": (config(max_position_embeddings=10**18), "max_position_embeddings must be"),
    "layers 1e9": (config(num_hidden_layers=10**9), "num_hidden_layers must be a whole number, at most"),
    "layers 3": (config(num_hidden_layers=3), "speaks of 3 blocks, and the weight files beside it hold 2"),
    "layers 1": (config(num_hidden_layers=1), "speaks of 1 blocks, and the weight files beside it hold 2"),
    "deep": (written("config.json", '{"a":' * 5000 + "1" + "}" * 5000), "is nested deeper than"),
    "a pipe": (replaced("config.json", os.mkfifo), "it is a pipe, not a file"),
    "/dev/zero": (replaced("config.json", lambda path: path.symlink_to("/dev/zero")), "it is a device, not a file"),
    "a large one": (written("config.json", "[" + " " * (2 << 20) + "]"), r"has \d+ bytes, more than the \d+"),
    "deep header": (header(lambda _: b'{"a":' * 5000 + b"1" + b"}" * 5000), "is nested deeper than"),
    "infinite offset": (header(infinite), "has Infinity"),
    "overlap": (header(overlap), "ends at byte .* begins at byte"),
    "index: a number": (index(5), "5 is no file's name"),
    "index: long": (index("x" * 5000), r"5000 characters\) is no file's name"),
    "index: outside": (index("../../tiny"), "names the file '../../tiny', which is not in the model's folder"),
    "index: absolute": (index("/etc/passwd"), "which is not in the model's folder"),
    "index: null byte": (index("a\0b"), "is no file's name"),
    "tokenizer configuration": (written("tokenizer_config.json", "[]"), "should hold a JSON object and holds a list"),
    "many tensors": (
        header(lambda entries: entries.update({f"x{i}": entries["model.norm.weight"] for i in range(20_000)})),
        r"speaks of 200\d\d tensors, and one file may hold 20000",
    ),
    "many values": (config(strange=[[[]]] * 150_000), "it holds 300\\d+ values, and no configuration needs more"),
    "many values beside": (
        lambda folder: change_json(
            folder / "tokenizer_config.json", lambda content: content.update(a=[[[]]] * 900_000)
        ),
        "holds 1800\\d+ values, and up to 900000 in one list",
    ),
    "tokenizer a pipe": (replaced("tokenizer.json", os.mkfifo), "it is a pipe, not a file"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_damaged_folder_is_refused_at_a_glance(name: str, good: dict[str, Path], tmp_path: Path) -> None:
    """Before a device is started, and before transformers sees any of it: a glance imports no model code."""
    change, words = NAMED[name]
    folder = copy_of(good["llama"], tmp_path / "model")
    change(folder)
    with pytest.raises(DamagedCheckpoint, match=words):
        glance_at(str(folder), "float32", cache_dir=tmp_path / "cache")
    assert sentence_of(folder, tmp_path / "cache")


def test_links_within_a_folder_may_lead_elsewhere(good: dict[str, Path], tmp_path: Path) -> None:
    """So the hub keeps its cache: names in a snapshot are links to blobs beside it."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for number, path in enumerate(good["llama"].iterdir()):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(path.read_bytes())
        (folder / path.name).symlink_to(blob)
    assert sentence_of(folder, tmp_path / "cache") is None


def field_at(data: bytes, key: str) -> int:
    """Where the value of a field begins, behind its name and its type."""
    mark = struct.pack("<Q", len(key)) + key.encode()
    return data.index(mark) + len(mark) + 4


def number(key: str, value: int) -> Callable[[bytes], bytes]:
    """Another number of 4 bytes in a field of a GGUF file."""

    def change(data: bytes) -> bytes:
        at = field_at(data, key)
        return data[:at] + struct.pack("<I", value) + data[at + 4 :]

    return change


def added(field: bytes) -> Callable[[bytes], bytes]:
    """One more field, the first in the file; the tensors keep their distance from its beginning by its alignment."""

    def change(data: bytes) -> bytes:
        (fields,) = struct.unpack("<Q", data[16:24])
        return data[:16] + struct.pack("<Q", fields + 1) + field + data[24:]

    return change


def text(key: str) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode()


NESTED = text("a.nested") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000 + struct.pack("<IQ", 4, 0)
ALIGNED = text("general.alignment") + struct.pack("<II", 4, 0)
NAMED_GGUF: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "block_count 2**32-1": (number("llama.block_count", 2**32 - 1), "block_count' must be a whole number, at most"),
    "block_count 500": (number("llama.block_count", 500), "speaks of 500 blocks, and its tensors hold 2"),
    "head_count 0": (number("llama.attention.head_count", 0), "head_count' must be a whole number, 1 or more"),
    "head_count 2**32-1": (number("llama.attention.head_count", 2**32 - 1), "head_count' must be"),
    "embedding_length 2**32-1": (number("llama.embedding_length", 2**32 - 1), "embedding_length' must be"),
    "embedding_length 65536": (number("llama.embedding_length", 65536), "takes at least .* weights, and its tensors"),
    "context_length 0": (number("llama.context_length", 0), "context_length' must be"),
    "freq_base NaN": (number("llama.rope.freq_base", 0x7FC00000), "freq_base' must be a number"),
    "eps NaN": (number("llama.attention.layer_norm_rms_epsilon", 0x7FC00000), "epsilon' must be a number"),
    "alignment 0": (added(ALIGNED), "says general.alignment 0, and it must be a power of two"),
    "nested lists": (added(NESTED), "a list of entries of the type 9"),
    "many fields": (lambda data: data[:16] + struct.pack("<Q", 2**40) + data[24:], "speaks of 1099511627776 fields"),
    "many tensors": (lambda data: data[:8] + struct.pack("<Q", 2**40) + data[16:], "speaks of 1099511627776 tensors"),
    "a bit in the merges": (lambda data: data.replace(b"he l", b"he m"), "tokenizer in .* cannot be read"),
}


@pytest.mark.parametrize("name", NAMED_GGUF)
def test_a_damaged_gguf_file_is_refused(name: str, good_gguf: dict[str, bytes], tmp_path: Path) -> None:
    change, words = NAMED_GGUF[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(change(good_gguf["llama-F16"]))
    assert re.search(words, sentence_of(path, tmp_path / "cache") or "it works")


def test_a_hole_instead_of_a_gguf_file_takes_no_time(tmp_path: Path) -> None:
    """Zeros make fields without a name and texts without a letter: a terabyte of them is not walked through."""
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 10, 10) + text("a") + struct.pack("<IIQ", 9, 8, 2**36))
        file.truncate(2**40)
    with pytest.raises(DamagedCheckpoint, match="speaks of 68719476736 texts in one list"):
        read_header(path)


def field(name: str, kind: int) -> bytes:
    return text(name) + struct.pack("<I", kind)


def test_large_texts_are_not_all_kept(tmp_path: Path) -> None:
    """A thousand texts of 16 MB each, nearly all of it holes: a file of some kB had the whole of it in memory."""
    path, size = tmp_path / "x.gguf", 16 << 20
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1000))
        for number in range(1000):
            file.write(field(f"x{number}", 8) + struct.pack("<Q", size))
            file.seek(size, 1)
        file.truncate(file.tell())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedCheckpoint, match=r"speaks of 1342177\d+ bytes in all texts, and at most 134217728"):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * MOST_GROWTH_KB


def test_lists_of_empty_texts_are_not_all_walked_through(tmp_path: Path) -> None:
    """4096 of them, of a million texts each, took an hour."""
    path, count = tmp_path / "x.gguf", 1 << 20
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 4096))
        for number in range(4096):
            file.write(field(f"x{number}", 9) + struct.pack("<IQ", 8, count))
            file.seek(8 * count, 1)
        file.truncate(file.tell())
    with pytest.raises(DamagedCheckpoint, match="speaks of 3145728 texts in all lists"):
        read_header(path)


# Damage drawn at random.


def check_damaged(model: Path, cache: Path) -> None:
    """It works, or one sentence; anything else raises. And it takes no memory that stands out."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sentence_of(model, cache)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MOST_GROWTH_KB


def run_over(good: dict[str, Path], tmp_path: Path, kind: str, how: settings) -> None:
    @how
    @given(st.data())
    def check(data: st.DataObject) -> None:
        DAMAGES[kind](good, tmp_path / "model", data)
        check_damaged(tmp_path / "model", tmp_path / "cache")

    check()


def run_over_gguf(good_gguf: dict[str, bytes], tmp_path: Path, how: settings) -> None:
    @how
    @given(st.data())
    def check(data: st.DataObject) -> None:
        damage_a_gguf(good_gguf, tmp_path / "x.gguf", data)
        check_damaged(tmp_path / "x.gguf", tmp_path / "cache")

    check()


@pytest.mark.parametrize("kind", DAMAGES)
def test_random_damage(kind: str, good: dict[str, Path], tmp_path: Path) -> None:
    run_over(good, tmp_path, kind, FEW)


def test_random_damage_to_a_gguf_file(good_gguf: dict[str, bytes], tmp_path: Path) -> None:
    run_over_gguf(good_gguf, tmp_path, settings(FEW, max_examples=30))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", DAMAGES)
def test_much_random_damage(kind: str, good: dict[str, Path], tmp_path: Path) -> None:
    run_over(good, tmp_path, kind, MANY)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_much_random_damage_to_a_gguf_file(good_gguf: dict[str, bytes], tmp_path: Path) -> None:
    run_over_gguf(good_gguf, tmp_path, settings(FEW, max_examples=1000))
