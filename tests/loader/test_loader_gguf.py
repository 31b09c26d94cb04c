"""Models in GGUF files equal what transformers makes of the same file, bit for bit."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from shardnet.errors import BadConfiguration, DamagedCheckpoint, UnsupportedModel
from shardnet.loader import ModelFiles, load_shard, open_model
from shardnet.loader.gguf.preparing import prepare

pytest.importorskip("gguf")

from tiny_gguf import TEMPLATE, write_gguf
from tiny_text_model import save_text_model

CONVERTED = "MXFP4"
"""A kind of blocks that devices cannot unpack."""


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("llama", "Q8_0"), ("llama", "Q5_1"), ("llama", "F16"), ("qwen3moe", "Q4_0"), ("llama", CONVERTED)],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_result_is_that_of_transformers(tmp_path: Path, architecture: str, kind: str, dtype: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_gguf(tmp_path / "tiny.gguf", architecture, kind)
    files = open_model(str(path), dtype, cache_dir=tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=getattr(torch, dtype))
    expected = model.state_dict()
    assert (files.folder / "model.safetensors").exists() == (kind == CONVERTED)
    weights = weights_of(files)
    assert set(expected) - set(weights) == {"lm_head.weight"}, "tied"
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert files.eos_ids == (model.generation_config.eos_token_id,) == (2,)
    ours, theirs = files.tokenizer(), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    theirs.save_pretrained(tmp_path / "theirs")
    assert (files.folder / "tokenizer.json").read_text() == (tmp_path / "theirs" / "tokenizer.json").read_text()
    for text in ("hello world", "  </s> héllo\n", "<s>helo"):
        assert ours(text).input_ids == theirs(text).input_ids
    chat = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False) != ""


def weights_of(files: ModelFiles) -> dict[str, torch.Tensor]:
    """All weights of a model, as a device reads them."""
    last = files.profile.num_units - 1
    shard = load_shard(files.config, files.tensors_of(0, last), 0, last, files.dtype)
    return {name: weight for unit in shard.units for name, weight in unit.weights.items()}


def test_the_tokenizer_is_the_files_own_whatever_lies_beside_it(tmp_path: Path) -> None:
    """Another model's tokenizer.json in the same folder was used, and kept with the converted model."""
    alone, among_others = tmp_path / "alone", save_text_model(tmp_path / "others")
    alone.mkdir()
    told = []
    for folder in (alone, among_others):
        path = write_gguf(folder / "tiny.gguf")
        told.append(open_model(str(path), "float32", cache_dir=folder / "cache").tokenizer())
    assert told[0]("hello world").input_ids == told[1]("hello world").input_ids
    assert told[1].chat_template == TEMPLATE


@pytest.mark.parametrize("kind", ["Q8_0", CONVERTED])
def test_a_file_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    told: list[float] = []
    folder = prepare(path, "float32", tmp_path / "cache", lambda what, done, total: told.append(done / total))
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told)
    monkeypatch.setattr("shardnet.loader.gguf.config.read_header", lambda path: pytest.fail("prepared again"))
    assert prepare(path, "float32", tmp_path / "cache") == folder
    left = {entry.name for entry in (tmp_path / "cache").iterdir()}
    assert left == {folder.name} | ({"parts"} if kind == CONVERTED else set()), "nothing half made is left"
    monkeypatch.undo()
    assert (prepare(path, "float16", tmp_path / "cache") != folder) == (kind == CONVERTED)
    write_gguf(path, kind="Q4_0")
    assert prepare(path, "float32", tmp_path / "cache") != folder


def test_another_file_of_the_same_size_and_date_is_prepared_anew(tmp_path: Path) -> None:
    """What had been made under its name, size and date was taken for it."""
    path, other = write_gguf(tmp_path / "tiny.gguf"), write_gguf(tmp_path / "other.gguf")
    folder = prepare(path, "float32", tmp_path / "cache")
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.rename(path)
    assert prepare(path, "float32", tmp_path / "cache") != folder


def test_a_file_that_changes_while_it_is_prepared_is_not_kept(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(DamagedCheckpoint, match=r"tiny.gguf is being changed"):
        prepare(path, "float32", tmp_path / "cache", lambda *_: path.touch())
    assert not list((tmp_path / "cache").iterdir())


def test_two_at_once_make_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(prepare(path, "float32", tmp_path / "cache"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(set(found)) == 1 and len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"PK" + data[2:], r"is no GGUF file: it begins with b'PKUF' instead of b'GGUF'"),
        (lambda data: b"", "it begins with b''"),
        (lambda data: data[:100], "ends inside its header, after 100 bytes"),
        (lambda data: data[:-40], r"is truncated: the tensor .* should end at byte \d+, and the file has \d+"),
        (
            lambda data: data[:24] + b"\xff" * 8 + data[32:],
            "an entry of its header should take 18446744073709551615 bytes",
        ),
        (lambda data: data[:8] + b"\xff" * 16 + data[24:], "damaged|truncated"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage: Any, words: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedCheckpoint, match=words):
        open_model(str(path), "float32", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_files_that_cannot_be_cut_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\x01" + data[5:])
    with pytest.raises(UnsupportedModel, match="of version 1 of the GGUF format, and versions 2 and 3 can be read"):
        prepare(path, "float32", tmp_path / "cache")
    path.write_bytes(data.replace(b"llama", b"blama"))
    with pytest.raises(UnsupportedModel, match="of the architecture 'blama', which transformers cannot read from GGUF"):
        prepare(path, "float32", tmp_path / "cache")
    path.write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(DamagedCheckpoint, match=r"lacks 1 of \d+ tensors, model.layers.1.mlp.up_proj.weight"):
        prepare(path, "float32", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir()), "nothing half made is left"


def test_a_part_of_a_model_says_so(tmp_path: Path) -> None:
    """It was called damaged, and was to be downloaded again."""
    path = write_gguf(tmp_path / "tiny-00001-of-00003.gguf", more=lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(UnsupportedModel, match=r"is one of the 3 files of a model, .* llama-gguf-split --merge"):
        prepare(path, "float32", tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BadConfiguration, match=r"tiny.gguf cannot be prepared in .*SHARDNET_CACHE"):
        prepare(path, "float32", tmp_path / "cache")


@pytest.mark.long
def test_the_embedded_model_equals_transformers(tmp_path: Path) -> None:
    """Half a minute: transformers unpacks it too."""
    from transformers import AutoModelForCausalLM

    from shardnet.loader.sources import find_embedded

    path = find_embedded()
    files = open_model("smollm2-135m-instruct", "float32", cache_dir=tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    weights = weights_of(files)
    assert set(expected) - set(weights) == {"lm_head.weight"}
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
