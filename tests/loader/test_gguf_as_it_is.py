"""Weights that are read out of a GGUF file as it is equal those of the converted model, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peak_memory import peak_bytes
from safetensors.torch import load_file
from tiny_gguf import write_gguf
from tiny_gguf_families import file_of, skeleton_of
from tiny_models import VARIANTS
from torch import Tensor

from shardnet.errors import DamagedCheckpoint
from shardnet.loader import enter, find_copy, fingerprint, load_shard, open_model
from shardnet.loader.checkpoint import index_folder
from shardnet.loader.gguf.as_it_is import kept_as_it_is
from shardnet.loader.gguf.conversion import convert_weights
from shardnet.loader.gguf.header import GgufTensor, read_header
from shardnet.loader.gguf.kept_index import KEPT
from shardnet.loader.gguf.naming import naming_of, wanted_shapes
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import bytes_of, stored_as
from shardnet.models import Skeleton, build_skeleton

FAMILIES = {
    "llama": {"heads=4", "heads=2"},
    "qwen2": set(),
    "qwen3": set(),
    "phi3": set(),
    "stablelm": set(),
    "starcoder2": set(),
    "falcon-new": set(),
    "gemma2": {"minus=1"},
    "gemma3_text": {"minus=1"},
    "nemotron": {"minus=1"},
    "qwen2_moe": set(),
    "qwen3_moe": set(),
}
"""What transformers does to the values of each family that it reads from GGUF files and devices unpack."""
CONVERTED = ("gpt2", "bloom")


@pytest.mark.parametrize("variant", FAMILIES)
@pytest.mark.parametrize(("kind", "dtype"), [("Q4_1", "bfloat16"), ("Q8_0", "float32")])
def test_weights_of_each_family_are_those_of_the_conversion(
    tmp_path: Path, variant: str, kind: str, dtype: str
) -> None:
    skeleton = skeleton_of(variant)
    shapes, raw = wanted_shapes(skeleton), skeleton.config.to_dict()
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, kind)
    places = kept_as_it_is(header, naming, raw, shapes)
    assert places is not None
    assert {part for place in places.values() for part in place.dtype.split("/")[1:]} == FAMILIES[variant]
    convert_weights(tmp_path / "model.safetensors", header, naming, shapes, getattr(torch, dtype), None)
    expected = load_file(tmp_path / "model.safetensors")
    found = loaded(skeleton, places, dtype)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def loaded(skeleton: Skeleton, places: dict[str, Any], dtype: str) -> dict[str, Tensor]:
    """All weights of a model, by name, as devices read them."""
    from shardnet.loader.pieces import match_names

    last = skeleton.config.num_hidden_layers + 1
    named = {name: place._replace(root=name) for name, place in match_names(skeleton, places).items()}
    shard = load_shard(skeleton.config, named, 0, last, dtype)
    return {name: tensor for unit in shard.units for name, tensor in unit.weights.items()}


@pytest.mark.parametrize("variant", [*FAMILIES, *CONVERTED])
def test_names_are_those_of_the_whole_model(variant: str) -> None:
    """transformers' own walk through all modules takes a second for every ten blocks; ours goes to the decoder only."""
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    skeleton = skeleton_of(variant)
    header: Any = SimpleNamespace(path=Path("x.gguf"))
    naming, shapes = naming_of(header, skeleton.config.to_dict(), skeleton), wanted_shapes(skeleton)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(skeleton.config)
    whole = get_gguf_hf_weights_map(model, naming.processor)
    wanted = {in_file: name for in_file, name in whole.items() if name in shapes}
    assert {in_file: name for in_file, name in naming.names.items() if name in shapes} == wanted
    assert set(shapes) <= set(wanted.values())


@pytest.mark.parametrize("variant", CONVERTED)
def test_what_devices_cannot_do_is_converted(tmp_path: Path, variant: str) -> None:
    skeleton = skeleton_of(variant)
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, "Q8_0")
    assert kept_as_it_is(header, naming, skeleton.config.to_dict(), wanted_shapes(skeleton)) is None


def test_a_tensor_that_is_larger_than_all_of_the_model_is_not_unpacked(tmp_path: Path) -> None:
    """A hole of 64 GiB in a file of some kB, of which nothing is wanted: it was to have as much memory."""
    skeleton = skeleton_of("qwen3")
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, "Q8_0")
    shapes = wanted_shapes(skeleton)
    hole = GgufTensor("none.weight", (1 << 20, 1 << 14), 0, header.file_bytes, 1 << 36)
    os.truncate(header.path, header.file_bytes + hole.num_bytes)
    convert_weights(tmp_path / "one", header, naming, shapes, torch.float32, None)
    both = replace(header, tensors=(hole, *header.tensors))
    convert_weights(tmp_path / "other", both, naming, shapes, torch.float32, None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_other_kinds_are_converted(tmp_path: Path) -> None:
    skeleton = skeleton_of("qwen3")
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, "MXFP4")
    assert kept_as_it_is(header, naming, skeleton.config.to_dict(), wanted_shapes(skeleton)) is None


def test_no_weights_are_written_and_one_folder_serves_all_dtypes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    wide = open_model(str(path), "float32", cache_dir=tmp_path / "cache")
    narrow = open_model(str(path), "bfloat16", cache_dir=tmp_path / "cache")
    assert wide.folder == narrow.folder and wide.copy.name == narrow.copy.name
    assert not list(wide.folder.glob("*.safetensors"))
    assert {place.file for place in wide.tensors.values()} == {str(path)}
    assert wide.tensors["model.layers.0.self_attn.k_proj.weight"].dtype == "Q4_1/heads=2"
    whole = [load_shard(files.config, files.tensors_of(0, 3), 0, 3, files.dtype) for files in (wide, narrow)]
    assert whole[0].bytes_read == whole[1].bytes_read == sum(place.num_bytes for place in wide.tensors.values())


def test_a_glance_at_a_prepared_file_needs_no_torch(tmp_path: Path) -> None:
    """What it rules out is to be said at once."""
    path = write_gguf(tmp_path / "tiny.gguf")
    open_model(str(path), "float32", cache_dir=tmp_path)
    looking = (
        "import sys; from pathlib import Path; from shardnet.loader import glance_at; path, cache = sys.argv[1:]; "
    )
    looking += "glance_at(path, 'float32', cache_dir=Path(cache)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", looking, str(path), str(tmp_path)], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"False\n"


def test_a_quantised_tensor_of_one_dimension(tmp_path: Path) -> None:
    """llama.cpp writes none; a file may have one nevertheless."""
    skeleton = skeleton_of("qwen3")
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, "Q8_0")
    values = gguf.quantize(np.arange(64, dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "qwen3")
    for tensor in header.tensors:
        if tensor.name == "output_norm.weight":
            writer.add_tensor(tensor.name, values, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            kind = gguf.GGMLQuantizationType(tensor.kind)
            blocks = np.fromfile(header.path, np.uint8, tensor.num_bytes, offset=tensor.offset)
            writer.add_tensor(tensor.name, blocks.reshape(*tensor.shape[:-1], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    places = kept_as_it_is(
        read_header(tmp_path / "one.gguf"), naming, skeleton.config.to_dict(), wanted_shapes(skeleton)
    )
    assert places is not None and places["model.norm.weight"].dtype == "Q8_0"
    found = loaded(skeleton, places, "float32")["model.norm.weight"]
    assert torch.equal(found, torch.from_numpy(gguf.dequantize(values, gguf.GGMLQuantizationType.Q8_0)))


def test_a_file_that_was_moved_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = write_gguf(tmp_path / "here" / "tiny.gguf")
    before = open_model(str(path), "float32", cache_dir=tmp_path / "cache")
    (tmp_path / "here").rename(tmp_path / "there")
    after = open_model(str(tmp_path / "there" / path.name), "float32", cache_dir=tmp_path / "cache")
    assert {place.file for place in after.tensors.values()} == {str(tmp_path / "there" / path.name)}
    assert before.copy.config == after.copy.config
    with pytest.raises(DamagedCheckpoint, match=r"tiny\.gguf is gone, or another file .* Give the \.gguf file itself"):
        index_folder(before.folder)


def test_a_list_holds_for_the_file_that_it_was_made_for(tmp_path: Path) -> None:
    """Whoever gives away a folder with such a list cannot have files of its user taken for weights."""
    folder = open_model(str(write_gguf(tmp_path / "tiny.gguf")), "float32", cache_dir=tmp_path / "cache").folder
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    content = json.loads((folder / KEPT).read_text())
    (folder / KEPT).write_text(json.dumps(content | {"file": str(secret)}))
    with pytest.raises(DamagedCheckpoint, match="secret is gone, or another file than"):
        index_folder(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"tensors": {"x": [-1, "F32", [2]]}},
        {"tensors": {"x": [0, "F32", [2, -2]]}},
        {"tensors": {"x": [0, "F32", [1 << 40]]}},
        {"tensors": {"x": [0, "Q4_1", [33]]}},
        {"tensors": {"x": [0, "Q9", [32]]}},
        {"tensors": {"x": [0, 5, [32]]}},
        {"tensors": {"x": [0.5, "F32", [2]]}},
        {"tensors": {"x": [0, "F32"]}},
        {"tensors": {"x": None}},
        {"tensors": [1]},
        {"stamp": [1, 2]},
        {"stamp": 7},
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = open_model(str(write_gguf(tmp_path / "tiny.gguf")), "float32", cache_dir=tmp_path / "cache").folder
    content = json.loads((folder / KEPT).read_text())
    (folder / KEPT).write_text(json.dumps(content | changed))
    with pytest.raises(DamagedCheckpoint, match=r"gguf\.json is damaged\. Remove its folder"):
        index_folder(folder)


def test_a_device_finds_and_checks_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = write_gguf(tmp_path / "tiny.gguf", "llama", "Q8_0")
    cache = tmp_path / "cache"
    files = open_model(str(path), "float32", cache_dir=cache)
    assert files.copy.is_local
    enter(files.copy, cache)
    large = find_copy(files.copy.name, cache)
    assert large is not None and large.is_unchanged(), "what was not hashed goes by the file's stamp"
    copy = fingerprint(files.copy, cache)
    assert copy is not None
    enter(copy, cache)
    files = files.under(copy)
    roots = files.roots_of(0, 3)
    found = find_copy(copy.name, cache)
    assert found is not None and found.places_of(roots) == files.tensors_of(0, 3)
    elsewhere = write_gguf(tmp_path / "other.gguf", "llama", "Q8_0")
    again = fingerprint(open_model(str(elsewhere), "bfloat16", cache_dir=cache).copy, cache)
    assert again is not None and again.name == copy.name, "the same model by content"
    place = files.tensors["model.layers.1.mlp.up_proj.weight"]
    dates = path.stat()
    with path.open("r+b") as file:
        file.seek(place.offset + 7)
        file.write(b"\0\0\0\0")
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    with pytest.raises(DamagedCheckpoint, match=r"tiny\.gguf is damaged: part 1 of 1 of the tensor .*1\.mlp\.up_proj"):
        found.places_of(roots)


def test_a_file_that_ends_while_it_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", "llama", "Q4_0")
    files = open_model(str(path), "float32", cache_dir=tmp_path / "cache")
    os.truncate(path, max(place.offset for place in files.tensors.values()) + 5)
    with pytest.raises(DamagedCheckpoint, match=r"tiny\.gguf ends inside the tensor .* bytes are missing"):
        load_shard(files.config, files.tensors_of(0, 3), 0, 3, "float32")


@pytest.mark.parametrize("dtype", ["Q4_1/heads=2", "F32/minus=1"])
def test_how_a_tensor_is_stored_is_part_of_its_name(dtype: str) -> None:
    from shardnet.loader.parts import local_root, tensor_root

    stored = stored_as(dtype)
    assert stored is not None
    shape = (4, 32)
    assert tensor_root(dtype, shape, ["a"]) != tensor_root(stored.kind, shape, ["a"])
    assert local_root([1], 0, dtype, shape) != local_root([1], 0, stored.kind, shape)


def test_loading_takes_a_few_mib_beside_the_shard(tmp_path: Path) -> None:
    """The largest tensor is the vocabulary, and is never in memory twice; neither are rows that are put in order."""
    from transformers import CONFIG_MAPPING

    family, sizes = VARIANTS["llama"]
    wide = {"vocab_size": 24_000, "hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 1}
    skeleton = build_skeleton(CONFIG_MAPPING[family](**sizes | wide), 0, 2)
    path, shapes, places, end = tmp_path / "zeros", wanted_shapes(skeleton), {}, 0
    for name, shape in shapes.items():
        dtype = "Q4_1/heads=4" if "q_proj" in name else "Q8_0"
        num_bytes = bytes_of(dtype, shape)
        assert num_bytes is not None
        places[name] = TensorPlace(str(path), end, num_bytes, dtype, shape)
        end += num_bytes
    with path.open("wb") as file:
        file.truncate(end)
    before = peak_bytes(from_now=True)
    found = loaded(skeleton, places, "bfloat16")
    grown = peak_bytes() - before
    shard = sum(tensor.nbytes for tensor in found.values())
    assert shard > 100 << 20 and grown < shard + (16 << 20), (grown >> 20, shard >> 20)


def test_a_cache_without_the_folder_is_filled_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    before = open_model(str(path), "float32", cache_dir=tmp_path / "cache")
    shutil.rmtree(before.folder)
    assert open_model(str(path), "float32", cache_dir=tmp_path / "cache").copy.name == before.copy.name
