"""A block gets 4 bits by what a text shows: less is lost, and it computes as it will when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_model
from torch import Tensor, nn

from shardnet.calibration.unit import calibrate, outputs_of
from shardnet.loader import ModelFiles, load_shard, open_model
from shardnet.loader.gguf.blocks import unpack
from shardnet.loader.stored import stored_as
from shardnet.models.experts import fused_in
from shardnet.models.few_bits import linears_of

VARIANTS = ("llama", "llama-tied", "gemma2", "gpt2", "falcon", "phi3", "olmo2", "bloom", "mixtral", "gpt_neox")
"""Short and stock blocks, transposed layers, parallel parts, attention of their own, experts."""


def shard_of(files: ModelFiles, scheme: str = "float32", unit: int = 1) -> Any:
    return load_shard(files.config, files.tensors_of(unit, unit), unit, unit, "float32", scheme=scheme)


def windows_of(files: ModelFiles) -> tuple[Tensor, ...]:
    ids = torch.randint(3, 97, (600,), generator=torch.Generator().manual_seed(1))
    return outputs_of(shard_of(files, "int4", 0), ids.split(100))


@pytest.fixture(params=VARIANTS)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ModelFiles:
    make_model(request.param).save_pretrained(tmp_path)
    return open_model(str(tmp_path), "float32", weights="int4")


def distance(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> float:
    return float(sum((a - b).square().sum() for a, b in zip(one, other, strict=True)))


def test_less_is_lost_than_by_rounding(files: ModelFiles) -> None:
    windows = windows_of(files)
    whole, shard = outputs_of(shard_of(files), windows), shard_of(files)
    packed = calibrate(shard, windows, "int4", tuple(files.tensors))
    linears = {source.name for _, source in linears_of(shard.modules) if source.num_inputs % 32 == 0}
    fused = [pair for each in fused_in(shard.modules) for pair in each.tensors.items()]
    assert {name.partition("@")[0] for name in packed} == linears | {name for name, shape in fused if not shape[2] % 32}
    calibrated, rounded = outputs_of(shard, windows), outputs_of(shard_of(files, "int4"), windows)
    assert 0 < distance(calibrated, whole) < distance(rounded, whole)


def test_the_unit_computes_with_what_is_written(files: ModelFiles) -> None:
    windows, shard = windows_of(files), shard_of(files)
    packed = calibrate(shard, windows, "int4", tuple(files.tensors))
    assert all(type(module).__module__ != "shardnet.calibration.unit" for module in shard_modules(shard))
    for module, source in linears_of(shard.modules):
        if source.name not in packed:
            continue
        stored = stored_as(packed[source.name].stored)
        assert stored is not None and stored.is_turned == source.is_transposed
        numbers = unpack(stored.kind, packed[source.name].blocks.view(-1, 20)).floats()
        numbers = numbers.view(source.num_outputs, source.num_inputs)
        assert torch.equal(module.weight, numbers.t() if source.is_transposed else numbers)
    again = shard_of(files)
    for one, other in zip(shard_modules(shard), shard_modules(again), strict=True):
        for name, parameter in one.named_parameters(recurse=False):
            getattr(other, name).data.copy_(parameter)
    assert all(map(torch.equal, outputs_of(shard, windows), outputs_of(again, windows)))


def test_only_named_tensors_are_changed(files: ModelFiles) -> None:
    windows, shard = windows_of(files), shard_of(files)
    before = outputs_of(shard, windows)
    assert calibrate(shard, windows, "int4", ()) == {}
    assert all(map(torch.equal, outputs_of(shard, windows), before))


def shard_modules(shard: Any) -> list[nn.Module]:
    return [part for module in shard.modules.values() for part in module.modules()]
