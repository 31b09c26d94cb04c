"""Experts get 4 bits, each by the rows that are sent to it, in all families; what is written is what is computed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_chain import TOLERANCE
from tiny_gguf_families import file_of, skeleton_of
from tiny_models import MIXTURES, make_model, wider
from torch import Tensor

from shardnet.calibration.experts import Routed, pack_experts
from shardnet.calibration.folder import QuantisedFolder, contents_of
from shardnet.calibration.packing import Energy, pack
from shardnet.calibration.unit import calibrate, outputs_of
from shardnet.loader import ModelFiles, load_shard, open_model
from shardnet.loader.gguf.as_it_is import kept_as_it_is
from shardnet.loader.gguf.blocks import unpack
from shardnet.loader.gguf.naming import wanted_shapes
from shardnet.loader.pieces import match_names
from shardnet.loader.stored import bytes_of
from shardnet.models.experts import Fused, fused_in, unlike_usual
from shardnet.quantised.experts import HeldExperts
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form, form_of

FORM = Form(4, 32)
SCHEMES = ("int4", "int4-g64", "int4-sym")


def files_of(folder: Path, variant: str, scheme: str = "int4", **sizes: Any) -> ModelFiles:
    make_model(variant, **wider(variant) | sizes).save_pretrained(folder)
    return open_model(str(folder), "float32", weights=scheme)


def shard_of(files: ModelFiles, unit: int, scheme: str = "float32") -> Any:
    return load_shard(files.config, files.tensors_of(unit, unit), unit, unit, "float32", scheme=scheme)


def text_of(files: ModelFiles, scheme: str, num_tokens: int = 600) -> tuple[Tensor, ...]:
    """Behind the embedding."""
    ids = torch.randint(3, 97, (num_tokens,), generator=torch.Generator().manual_seed(1))
    return outputs_of(shard_of(files, 0, scheme), ids.split(100))


def distance(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> float:
    return float(sum((a - b).square().sum() for a, b in zip(one, other, strict=True)))


@pytest.mark.parametrize("variant", MIXTURES)
def test_less_is_lost_than_by_rounding_in_every_family(variant: str, tmp_path: Path) -> None:
    files = files_of(tmp_path, variant)
    windows = text_of(files, "int4")
    whole, shard = outputs_of(shard_of(files, 1), windows), shard_of(files, 1)
    [fused] = fused_in(shard.modules)
    experts = [key for key in files.tensors_of(1, 1) if key.partition("@")[0] in fused.tensors]
    packed = calibrate(shard, windows, "int4", experts)
    assert packed.keys() == set(experts)
    by_rounding = shard_of(files, 1)
    with torch.inference_mode():
        for weights in next(fused_in(by_rounding.modules)).module.parameters():
            for weight in weights:
                weight.copy_(rounded(weight, FORM).floats())
    lost = distance(outputs_of(by_rounding, windows), whole)
    assert 0 < distance(outputs_of(shard, windows), whole) < 0.9 * lost


@pytest.mark.parametrize(("variant", "scheme"), [(each, SCHEMES[at % 3]) for at, each in enumerate(MIXTURES)])
def test_what_is_written_loads_and_is_what_the_unit_computes(variant: str, scheme: str, tmp_path: Path) -> None:
    files = files_of(tmp_path / "model", variant, scheme)
    out = QuantisedFolder(tmp_path / "out", files.profile.num_units, {})
    out.begin()
    windows, weight_map, computed = text_of(files, scheme), {}, []
    for unit in range(files.profile.num_units):
        matrices = {}
        if 0 < unit < files.profile.num_units - 1:
            shard = shard_of(files, unit)
            matrices = calibrate(shard, windows, scheme, tuple(files.tensors_of(unit, unit)))
            computed.append((windows, outputs_of(shard, windows)))
            windows = computed[-1][1]
        contents = contents_of(files, unit, matrices, weight_map)
        assert {name for name, content in contents.items() if content.dtype[1:3] == "4_"} >= {
            name for name in contents if ".experts." in name
        }
        out.add(unit, contents, windows, files.copy)
        weight_map |= dict.fromkeys(contents, unit)
    out.finish(files, scheme, weight_map)
    out.close()
    made = open_model(str(tmp_path / "out"), "float32", weights=scheme)
    for unit, (before, behind) in enumerate(computed, start=1):
        loaded = shard_of(made, unit, scheme)
        assert any(isinstance(part, HeldExperts) for each in loaded.modules.values() for part in each.modules())
        for one, other in zip(outputs_of(loaded, before), behind, strict=True):
            assert (one - other).abs().max() < TOLERANCE


@pytest.mark.parametrize("variant", ["qwen2_moe", "qwen3_moe"])
def test_experts_of_a_gguf_file(variant: str, tmp_path: Path) -> None:
    skeleton = skeleton_of(variant)
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, "Q8_0")
    places = kept_as_it_is(header, naming, skeleton.config.to_dict(), wanted_shapes(skeleton))
    assert places is not None
    named = {name: place._replace(root=name) for name, place in match_names(skeleton, places).items()}
    own = {name: place for name, place in named.items() if ".layers.0." in name}
    shard = load_shard(skeleton.config, own, 1, 1, "float32")
    windows = (rows_for(80, 64), rows_for(40, 64))
    packed = calibrate(shard, windows, "int4", tuple(own))
    [fused] = fused_in(shard.modules)
    parts = {name: [key for key in packed if key.partition("@")[0] == name] for name in fused.tensors}
    assert sorted(map(len, parts.values())) == [4, 8]
    for name, keys in parts.items():
        numbers = getattr(fused.module, name.rpartition(".")[2]).flatten()
        for key in keys:
            first, place = int(key.partition("@")[2] or 0), named[key]
            assert packed[key].stored == "N4_32"
            assert bytes_of("N4_32", place.shape) == packed[key].blocks.nbytes
            values = unpack("N4_32", packed[key].blocks.view(-1, 20)).floats().flatten()
            assert torch.equal(numbers[first : first + len(values)], values)


class _Experts(torch.nn.Module):
    def __init__(self, num_experts: int, hidden: int, inner: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.gate_up_proj = torch.nn.Parameter(torch.randn(num_experts, 2 * inner, hidden, generator=draw), False)
        self.down_proj = torch.nn.Parameter(torch.randn(num_experts, hidden, inner, generator=draw), False)
        self.act_fn = torch.nn.functional.silu

    def fused(self) -> Fused:
        return Fused("experts", self, {"gate_up": self.gate_up_proj.shape, "down": self.down_proj.shape})


def routed_to(chosen: Tensor, rows: Tensor) -> Routed:
    routed = Routed(len(rows), rows.shape[1], rows.device)
    for some, own in zip(rows.split(70), chosen.split(70), strict=True):
        routed.add(some, own)
    return routed


def rows_for(num_rows: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    return torch.randn(num_rows, width // 4, generator=draw) @ torch.randn(width // 4, width, generator=draw)


def test_each_expert_goes_by_its_own_rows() -> None:
    """Of four experts the third is sent two rows, and the last one nothing."""
    experts, rows = _Experts(4, 64, 32), rows_for(300, 64)
    chosen = torch.arange(300)[:, None] % 2 * torch.ones(1, 2, dtype=torch.int64)
    chosen[:, 1] = 1 - chosen[:, 0]
    chosen[100:, 1] = chosen[100:, 0]
    chosen[7] = chosen[200] = 2
    before = copy.deepcopy(experts)
    blocks = pack_experts(experts.fused(), {"gate_up": FORM, "down": FORM}, routed_to(chosen, rows))
    assert [tuple(each.shape) for each in blocks.values()] == [(4 * 64, 2 * 20), (4 * 64, 20)]
    for expert in range(4):
        own = rows[(chosen == expert).any(1)]
        assert len(own) > 90 or len(own) == (2, 0)[expert - 2]
        gate_up, down = before.gate_up_proj[expert].clone(), before.down_proj[expert].clone()
        expected = pack(gate_up, shown_by_rows(own, 64), FORM)
        assert torch.equal(blocks["gate_up"][64 * expert : 64 * expert + 64], expected)
        gate, up = torch.nn.functional.linear(own, gate_up).chunk(2, -1)
        expected = pack(down, shown_by_rows(experts.act_fn(gate) * up, 32), FORM)
        assert torch.equal(blocks["down"][64 * expert : 64 * expert + 64], expected)
        assert torch.equal(experts.gate_up_proj[expert], gate_up) and torch.equal(experts.down_proj[expert], down)


def shown_by_rows(rows: Tensor, width: int) -> Any:
    energy = Energy(width, rows.device)
    energy.add(rows)
    return energy.shown()


def test_an_expert_that_nothing_is_sent_to_is_rounded() -> None:
    experts, rows = _Experts(3, 64, 32), rows_for(50, 64)
    before = copy.deepcopy(experts)
    pack_experts(experts.fused(), {"gate_up": FORM, "down": FORM}, routed_to(torch.zeros(50, 1).long(), rows))
    for one, other in zip(experts.parameters(), before.parameters(), strict=True):
        assert bool(one.isfinite().all())
        for expert in (1, 2):
            off, plainly_off = one[expert] - other[expert], rounded(other[expert], FORM).floats() - other[expert]
            assert 0 < float(off.square().sum()) < float(plainly_off.square().sum())


def test_what_does_not_fit_stays_as_it_is() -> None:
    experts, rows = _Experts(2, 64, 24), rows_for(50, 64)
    before = copy.deepcopy(experts)
    blocks = pack_experts(experts.fused(), {"gate_up": FORM, "down": None}, routed_to(torch.ones(50, 1).long(), rows))
    assert blocks.keys() == {"gate_up"}
    assert torch.equal(experts.down_proj, before.down_proj)
    assert not torch.equal(experts.gate_up_proj, before.gate_up_proj)


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_a_short_text_gives_numbers(num_tokens: int, tmp_path: Path) -> None:
    """Most experts are chosen by nobody."""
    files = files_of(tmp_path, "qwen3_moe", num_experts=16)
    windows, shard = text_of(files, "int4", num_tokens), shard_of(files, 1)
    packed = calibrate(shard, windows, "int4", tuple(files.tensors_of(1, 1)))
    assert sum(".experts." in name for name in packed) == 16 * 3
    assert all(bool(parameter.isfinite().all()) for each in shard.modules.values() for parameter in each.parameters())
    assert all(bool(each.isfinite().all()) for each in outputs_of(shard, windows))


@pytest.mark.parametrize("variant", MIXTURES)
def test_all_experts_are_of_the_form_that_is_known(variant: str, tmp_path: Path) -> None:
    files = files_of(tmp_path, variant)
    assert not list(unlike_usual(shard_of(files, 1).modules))
    [fused] = fused_in(shard_of(files, 1).modules)
    for _, _, num_inputs in fused.tensors.values():
        form = form_of("int4", "", num_inputs, is_table=False)
        assert form is not None and form.fits(num_inputs)
