"""Checkpoints and tensors by what is in them: names, the index of copies, and what has changed since."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_gguf import write_gguf
from tiny_models import save_model

from shardnet.errors import BadConfiguration, DamagedCheckpoint, ModelNotFound
from shardnet.loader import (
    ModelFiles,
    copies,
    copy_index,
    enter,
    find_copy,
    fingerprint,
    load_shard,
    open_model,
    parts,
    require_copy,
    whole_files,
)
from shardnet.loader import files as files_module

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model("llama", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What these tests enter is found by themselves only."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def named(folder: Path, cache: Path) -> ModelFiles:
    """The model under its name by content, entered in the indices."""
    files = open_model(str(folder), "float32", cache_dir=cache)
    copy = fingerprint(files.copy, cache)
    assert copy is not None
    enter(copy, cache)
    return files.under(copy)


def change(folder: Path, name: str = "lm_head.weight") -> None:
    """Change one value of one tensor in place; neither size nor date of the file tell of it."""
    path = folder / WEIGHTS
    dates = path.stat()
    place = copies.look_at(folder, open_model(str(folder), "float32").copy.tensors).tensors[name]
    with path.open("r+b") as file:
        file.seek(place.offset + place.num_bytes - 4)
        old = file.read(4)
        file.seek(-4, os.SEEK_CUR)
        file.write(bytes(byte ^ 1 for byte in old))
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert path.stat().st_mtime_ns == dates.st_mtime_ns and path.stat().st_size == dates.st_size


def whole_shard(files: ModelFiles, places: dict[str, Any], weights: dict[Any, torch.Tensor] | None = None) -> Any:
    return load_shard(files.config, places, 0, 4, "float32", weights)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(num_bytes=st.integers(0, 40), part_bytes=st.integers(1, 12), flipped=st.integers(0, 39))
def test_parts_cover_a_tensor_and_tell_where_it_differs(num_bytes: int, part_bytes: int, flipped: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_BYTES", part_bytes)
        data = bytearray(range(num_bytes))
        before = parts.hashes_of(memoryview(data))
        assert b"".join(bytes(data[first : first + size]) for first, size in parts.cut(num_bytes)) == data
        assert len(before) == -(-num_bytes // part_bytes)
        if flipped < num_bytes:
            data[flipped] ^= 255
            after = parts.hashes_of(memoryview(data))
            assert [index for index in range(len(before)) if before[index] != after[index]] == [flipped // part_bytes]
            assert parts.tensor_root("U8", (num_bytes,), before) != parts.tensor_root("U8", (num_bytes,), after)
    assert parts.tensor_root("F16", (2, 3), before) != parts.tensor_root("F16", (3, 2), before)


def test_equal_checkpoints_have_one_name_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    here, there = named(folder, tmp_path / "cache"), named(tmp_path / "elsewhere", tmp_path / "other")
    assert here.copy.name == there.copy.name and not here.copy.is_local
    assert here.roots_of(0, 4) == there.roots_of(0, 4)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert named(folder, tmp_path / "cache").copy.name != here.copy.name


def test_a_checkpoint_cut_into_files_has_the_name_of_the_whole(folder: Path, tmp_path: Path) -> None:
    whole = named(folder, tmp_path / "cache")
    tensors = load_file(folder / WEIGHTS)
    weight_map = {name: f"{index % 3}.safetensors" for index, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert named(folder, tmp_path / "cache").copy.name == whole.copy.name


def test_weights_are_hashed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = named(folder, tmp_path / "cache")
    monkeypatch.setattr("shardnet.loader.hashing._hash_file", lambda *_: pytest.fail("hashed again"))
    assert named(folder, tmp_path / "cache").copy.name == first.copy.name
    folder.rename(tmp_path / "moved")
    assert find_copy(first.copy.name, tmp_path / "cache") is None
    moved = named(tmp_path / "moved", tmp_path / "cache")
    assert moved.copy.name == first.copy.name, "a folder that was moved is known by its files"
    found = require_copy(first.copy.name, tmp_path / "cache", "device-0")
    assert found.folder == tmp_path / "moved" and found == moved.copy


def test_what_is_converted_is_hashed_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", kind="MXFP4")
    monkeypatch.setattr("shardnet.loader.hashing._hash_file", lambda *_: pytest.fail("read again"))
    converted = named(path, tmp_path / "cache")
    monkeypatch.undo()
    assert named(converted.folder, tmp_path / "another").copy.name == converted.copy.name


def test_a_changed_file_gets_a_new_name(folder: Path, tmp_path: Path) -> None:
    """One that was written in place and given its old date again would have been taken for the old one."""
    old = named(folder, tmp_path / "cache")
    change(folder)
    new = named(folder, tmp_path / "cache")
    assert new.copy.name != old.copy.name
    roots = old.roots_of(0, 4), new.roots_of(0, 4)
    assert [name for name in roots[0] if roots[0][name] != roots[1][name]] == ["lm_head.weight"]


def test_models_share_the_tensors_that_are_equal(folder: Path, tmp_path: Path) -> None:
    """Devices used to share by file: a model and its fine-tuned sister, or a second copy, were held twice."""
    shutil.copytree(folder, tmp_path / "tuned")
    change(tmp_path / "tuned")
    model, tuned = named(folder, tmp_path / "cache"), named(tmp_path / "tuned", tmp_path / "cache")
    weights: dict[Any, torch.Tensor] = {}
    first = whole_shard(model, model.tensors_of(0, 4), weights)
    second = whole_shard(tuned, tuned.tensors_of(0, 4), weights)
    assert second.bytes_read == second.modules["lm_head"].weight.nbytes
    assert second.modules["model.norm"].weight is first.modules["model.norm"].weight
    assert not torch.equal(second.modules["lm_head"].weight, first.modules["lm_head"].weight)


def test_damage_is_named_by_tensor_and_part(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 1000)
    files = named(folder, tmp_path / "cache")
    roots = files.roots_of(0, 4)
    os.utime(folder / WEIGHTS)
    copy = require_copy(files.copy.name, tmp_path / "cache", "device-0")
    assert copy.places_of(roots) == files.tensors_of(0, 4), "its date is new, and every part as it was"
    change(folder)
    sentence = r"part 13 of 13 of the tensor lm_head.weight \(from byte \d+ on\) is not what it was"
    with pytest.raises(DamagedCheckpoint, match=sentence):
        copy.places_of(roots)
    assert copy.places_of(files.roots_of(0, 3)), "a shard without that tensor can be loaded"
    with open(folder / WEIGHTS, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(DamagedCheckpoint, match=r"part \d+ of \d+ of the tensor"):
        copy.places_of(files.roots_of(0, 3))
    with pytest.raises(DamagedCheckpoint, match="holds no x as it is asked for"):
        copy.places_of({"x": "0" * 64})
    (folder / "config.json").write_text("{}")
    with pytest.raises(DamagedCheckpoint, match=r"config.json has changed since its model was opened"):
        copy.places_of(roots)


def test_a_large_model_goes_by_its_files_until_it_is_hashed(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    files = open_model(str(folder), "float32", cache_dir=cache)
    assert fingerprint(files.copy, cache, most_bytes=1000) is None
    enter(files.copy, cache)
    found = require_copy(files.copy.name, tmp_path / "of a device", "device-0")
    assert found.is_local and found.places_of(files.roots_of(0, 4)) == files.tensors_of(0, 4)
    change(folder)
    with pytest.raises(DamagedCheckpoint, match=r"has changed since its model was opened. Load the model again"):
        found.places_of(files.roots_of(0, 4))
    known = named(folder, cache)
    again = fingerprint(open_model(str(folder), "float32").copy, cache, most_bytes=0)
    assert again is not None and again.name == known.copy.name, "what was hashed once is known from then on"


def test_progress_is_told_where_it_takes_long(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, float]] = []
    copy = open_model(str(folder), "float32").copy
    fingerprint(copy, tmp_path / "a", lambda *values: told.append(values))
    assert not told
    monkeypatch.setattr("shardnet.loader.hashing.SHOW_AFTER_S", -1.0)
    fingerprint(copy, tmp_path / "b", lambda *values: told.append(values))
    assert told[-1] == ("fingerprinting model, once", told[-1][2], told[-1][2]) and len(told) == len(copy.tensors)


def test_a_file_that_is_being_written_is_refused(folder: Path, tmp_path: Path) -> None:
    files = open_model(str(folder), "float32")
    os.utime(folder / WEIGHTS)
    with pytest.raises(DamagedCheckpoint, match=r"model.safetensors is being changed. Load the model again when"):
        fingerprint(files.copy, tmp_path / "cache")


def test_a_device_without_a_copy_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"pixel-7 has no copy of the checkpoint 0123456789abcdef. Copy the model"):
        require_copy("0123456789abcdef" * 4, tmp_path, "pixel-7")
    (tmp_path / "secret.json").write_text("{}")
    assert find_copy("../secret", tmp_path) is None and find_copy("", tmp_path) is None


def test_halves_of_entries_are_removed_when_nobody_can_write_them_any_more(tmp_path: Path) -> None:
    """A process that was killed as it wrote an entry left `tmp....part` for good."""
    for name, age_s in (("old.part", 2 * whole_files.LEFTOVER_S), ("new.part", 0)):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / name).touch()
        os.utime(tmp_path / "parts" / name, (time.time() - age_s,) * 2)
    whole_files.write_json(tmp_path / "parts/entry.json", [1])
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["entry.json", "new.part"]


def test_ctrl_c_stays_ctrl_c_when_an_entry_has_its_name_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came out as a FileNotFoundError of the half that was to be removed."""

    def replace(source: str, target: Path) -> None:
        os.rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        whole_files.write_json(tmp_path / "parts/entry.json", [1])
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["entry.json"]


def test_entries_that_cannot_be_understood_are_none(folder: Path, tmp_path: Path) -> None:
    files = named(folder, tmp_path / "cache")
    for index in (tmp_path / "cache", copy_index._shared_folder()):
        entry = Path(index, "checkpoints", f"{files.copy.name}.json")
        for text in ("", "[]", '{"format": 1}', entry.read_text().replace('"files": [[', '"files": [[1, [')):
            entry.write_text(text)
            assert copy_index.CopyIndex(entry.parent).find(files.copy.name) is None
    for notes in (tmp_path / "cache" / "parts").iterdir():
        notes.write_text('{"format": 1, "hashes": {"lm_head.weight": []}}')
    assert named(folder, tmp_path / "cache").copy == files.copy


def test_a_cache_that_cannot_be_written_costs_time_and_no_more(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = named(folder, tmp_path / "file")
    assert require_copy(files.copy.name, tmp_path / "file", "device-0") == files.copy
    shared = copy_index._shared_folder()
    assert shared is not None
    shared.chmod(0o777)
    with pytest.raises(
        BadConfiguration, match=r"The devices cannot be told where model lies: neither .*file .* nor this user's folder"
    ):
        named(folder, tmp_path / "file")
    assert find_copy(files.copy.name, tmp_path / "file") is None, "what others can write to is not believed"


def replace_weights(folder: Path) -> None:
    """By the same tensors behind a longer header, as a download does that ends just now."""
    save_file(load_file(folder / WEIGHTS), folder / "new", metadata={"origin": "x" * 96})
    (folder / "new").rename(folder / WEIGHTS)


def test_weights_that_are_replaced_while_a_model_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old header's offsets got the new file's stamp, and led to the wrong bytes in silence."""
    make_config = files_module.make_config

    def make_slowly(*args: Any) -> Any:
        replace_weights(folder)
        return make_config(*args)

    monkeypatch.setattr(files_module, "make_config", make_slowly)
    with pytest.raises(DamagedCheckpoint, match="is being changed"):
        open_model(str(folder), "float32")
    monkeypatch.undo()
    assert open_model(str(folder), "float32").copy.is_unchanged()


def test_weights_that_change_while_they_are_read(folder: Path) -> None:
    """A shard could get half of its tensors from the old file and half from the new one."""
    copy = open_model(str(folder), "float32").copy
    with copy.at_rest():
        pass
    with pytest.raises(DamagedCheckpoint, match="is being changed"), copy.at_rest():
        change(folder)
    with pytest.raises(DamagedCheckpoint, match="is being changed"), copy.at_rest():
        (folder / WEIGHTS).unlink()
