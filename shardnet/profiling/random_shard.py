"""Shards with random weights: a device can be measured for a model whose checkpoint it does not have.

Speed depends on shapes and dtypes, not on what the weights say. Blocks that are alike (same kind of attention, same
shapes) make a group, and a few blocks of each group stand for all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from shardnet.described.model_sizes import UnitWork, model_config_from_hf, unit_works
from shardnet.errors import BadConfiguration, UnsupportedModel
from shardnet.models import Shard
from shardnet.models.few_bits import held_bytes, hold_in_few_bits
from shardnet.models.kv import ON_CPU
from shardnet.models.sizes import kept_as, profile_skeleton
from shardnet.models.skeleton import Skeleton, skeleton_to_run
from shardnet.plan import DTYPE_BYTES, KernelOrder
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import Shape
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.linear import Held
from shardnet.quantised.schemes import AUTO, bits_of

_PATTERN_ELEMENTS = 1 << 18
_OUTPUTS_AT_ONCE = 1024
"""Are filled of a matrix of few bits."""
BytesOf = Callable[[Skeleton, int], int]
"""What a unit's weights take."""


@dataclass(frozen=True)
class UnitGroup:
    """Units that are alike."""

    config: Any
    """The model's configuration; where its blocks are of several kinds, changed so that all are of this group's."""
    units: tuple[int, ...]
    longest_run: int
    """So many units in a row are of this kind in `config`, beginning with `run_starts_at`."""
    run_starts_at: int
    weight_bytes: int
    """Of one unit."""


def group_units(config: Any, dtype: torch.dtype, weights: str = AUTO) -> list[UnitGroup]:
    """The embedding, each distinct kind of block, the head.

    Args:
        config: of a model of a supported family: a `transformers` one, or a `PlainConfig`.
        weights: in how many bits they are held.

    Raises:
        UnsupportedModel: as `skeleton_to_run`.
    """
    num_units = config.num_hidden_layers + 2
    bytes_of = partial(_weight_bytes, item_bytes=dtype.itemsize, weights=weights)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for unit, modules in skeleton_to_run(config, 1, num_units - 2).units():
        kinds.setdefault((_layer_type(config, unit), *_shapes(modules)), []).append(unit)
    embedding = _lone_group(config, 0, bytes_of)
    return [
        embedding,
        *(_block_group(config, units, bytes_of) for units in kinds.values()),
        _lone_group(config, num_units - 1, bytes_of),
    ]


def random_shard(
    config: Any,
    first_unit: int,
    last_unit: int,
    dtype: torch.dtype,
    device: torch.device = ON_CPU,
    weights: str = AUTO,
    kernels: Sequence[KernelOrder] = (),
    kv_dtype: str = KV_AUTO,
) -> Shard:
    """Units first_unit..last_unit of a model with small random weights. Always the same ones."""
    skeleton = skeleton_to_run(config, first_unit, last_unit)
    packings = hold_in_few_bits(skeleton, weights, lambda _: "", dtype, device, kernels)
    for packing in chain.from_iterable(packings.values()):
        _fill_alike(packing.held)
    pattern = torch.randn(_PATTERN_ELEMENTS, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device, dtype)
    made: dict[str, Tensor] = {}
    for _, unit in skeleton.units():
        for slot in skeleton.slots(unit):
            if slot.is_buffer:
                continue  # the skeleton's buffers are real
            if slot.name not in made:
                made[slot.name] = _filled(slot.shape, pattern)
            slot.module._parameters[slot.attribute] = nn.Parameter(made[slot.name], requires_grad=False)
    skeleton.move_buffers(device)
    return Shard(skeleton.config, skeleton.family, skeleton.filled(made), dtype, kv_dtype=kv_dtype)


def works_of(config: Any, name: str, dtype: str, weights: str = AUTO, kv_dtype: str = KV_AUTO) -> tuple[UnitWork, ...]:
    """The sizes of all units: from the configuration, or, for a family whose rules are not known, from its skeleton."""
    try:
        works = unit_works(model_config_from_hf(config.to_dict(), name), dtype, kv_dtype=kv_dtype, weights=weights)
    except (UnsupportedModel, BadConfiguration):
        return _works_of_skeleton(config, name, dtype, weights, kv_dtype)
    if bits_of(weights) is None:
        return works
    last = len(works) - 1  # embedding and head are held in other bits than blocks, tied or not
    embedding, head = (_weight_bytes_of(config, unit, dtype, weights) for unit in (0, last))
    return (
        replace(works[0], weight_bytes=embedding),
        *works[1:last],
        replace(works[last], weight_bytes=head, read_bytes=float(head)),
    )


def _weight_bytes_of(config: Any, unit: int, dtype: str, weights: str) -> int:
    return _weight_bytes(skeleton_to_run(config, unit, unit), unit, item_bytes=DTYPE_BYTES[dtype], weights=weights)


def _works_of_skeleton(config: Any, name: str, dtype: str, weights: str, kv_dtype: str) -> tuple[UnitWork, ...]:
    """As if every weight took part in every token."""
    works = []
    whole = skeleton_to_run(config, 0, config.num_hidden_layers + 1)
    for unit in kept_as(profile_skeleton(whole, dtype, name, weights), config, kv_dtype).units:
        is_embedding, is_block = unit.name == "embedding", unit.kv_bytes_per_token > 0
        works.append(
            UnitWork(
                name=unit.name,
                num_parameters=unit.num_parameters,
                weight_bytes=unit.weight_bytes,
                kv_bytes_per_token=float(unit.kv_bytes_per_token),
                output_bytes=unit.output_bytes,
                read_bytes=float(unit.output_bytes if is_embedding else unit.weight_bytes),
                flops_per_token=0.0 if is_embedding else 2.0 * unit.num_parameters,
                attention_flops_per_cached_token=4.0 * config.hidden_size if is_block else 0.0,
            )
        )
    return tuple(works)


def _lone_group(config: Any, unit: int, bytes_of: BytesOf) -> UnitGroup:
    skeleton = skeleton_to_run(config, unit, unit)
    return UnitGroup(config, (unit,), 1, unit, bytes_of(skeleton, unit))


def _block_group(config: Any, units: list[int], bytes_of: BytesOf) -> UnitGroup:
    """Blocks of one kind. Where kinds of attention alternate, the whole model is made of this one: longer runs."""
    kind = _layer_type(config, units[0])
    if kind is not None:
        config = copy.deepcopy(config)
        config.layer_types = [kind] * config.num_hidden_layers
    skeleton = skeleton_to_run(config, 1, config.num_hidden_layers)
    blocks = dict(skeleton.units())
    wanted = _shapes(blocks[units[0]])
    best_start, best_length, start = units[0], 0, 1
    for unit in range(1, config.num_hidden_layers + 2):
        if unit in blocks and _shapes(blocks[unit]) == wanted:
            continue
        if unit - start > best_length:
            best_start, best_length = start, unit - start
        start = unit + 1
    return UnitGroup(config, tuple(units), best_length, best_start, bytes_of(skeleton, units[0]))


def _layer_type(config: Any, unit: int) -> str | None:
    kinds = getattr(config, "layer_types", None)
    return kinds[unit - 1] if kinds else None


def _shapes(modules: dict[str, nn.Module]) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, item.shape) for module in modules.values() for name, item in module.named_parameters())


def _weight_bytes(skeleton: Skeleton, unit: int, *, item_bytes: int, weights: str) -> int:
    return held_bytes(skeleton, dict(skeleton.units())[unit], weights, lambda _: "", item_bytes)


def any_codes(shape: Shape, num_outputs: int, generator: torch.Generator) -> Grouped:
    """Some rows of a matrix that could be a model's: attention has a way of its own for what is no finite number."""
    bits = shape.form.bits
    codes = torch.randint(2**bits, (num_outputs, shape.num_inputs), dtype=torch.uint8, generator=generator)
    scales = torch.full((num_outputs, shape.num_groups), 2.0 ** -(bits + 4))
    return Grouped(codes, scales, scales * -(2 ** (bits - 1)), bits)


def _fill_alike(held: Held) -> None:
    """Always with the same numbers, again and again, as `_filled`."""
    num_outputs = held.matrix.shape.num_outputs
    held.begin()
    grouped = any_codes(held.matrix.shape, min(_OUTPUTS_AT_ONCE, num_outputs), torch.Generator().manual_seed(0))
    for first in range(0, num_outputs, _OUTPUTS_AT_ONCE):
        num = min(_OUTPUTS_AT_ONCE, num_outputs - first)
        held.fill(first, Grouped(grouped.codes[:num], grouped.scales[:num], grouped.minima[:num], grouped.bits))


def _filled(shape: torch.Size, pattern: Tensor) -> Tensor:
    """A tensor that repeats `pattern`: drawing a number for each weight of a large model would take minutes."""
    filled = torch.empty(shape, dtype=pattern.dtype, device=pattern.device)
    for part in filled.view(-1).split(pattern.numel()):
        part.copy_(pattern[: part.numel()])
    return filled
