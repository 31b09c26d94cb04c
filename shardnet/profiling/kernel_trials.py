"""Times the kernels that could hold a matrix of few bits: with few rows as in decoding, and with many as in prompts.

Each kernel has as many copies of the matrix as are more than the processor caches, and goes from one to the next:
weights come from memory, as in a run. Of a large matrix some outputs are multiplied, and the times go in proportion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from shardnet.models.few_bits import hold_in_few_bits
from shardnet.models.in_c import why_not
from shardnet.models.skeleton import skeleton_to_run
from shardnet.plan import KernelOrder
from shardnet.profiling.cores import last_level_cache_bytes
from shardnet.profiling.kernel_timing import ROWS, KernelTiming
from shardnet.profiling.random_shard import UnitGroup, any_codes, group_units
from shardnet.profiling.timing import Clock, timed, undisturbed
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.choosing import suiting
from shardnet.quantised.kernels.kernel import Kernel, Matrix, Shape
from shardnet.quantised.linear import Held
from shardnet.quantised.schemes import BYTES, INT4, NIBBLES

MOST_ELEMENTS = 1 << 21
"""Of a matrix are multiplied."""
OUTPUTS_STEP = 64
"""Kernels lay out so many outputs together, or a part of them."""
MOST_COPIES_BYTES = 1 << 26
_ROUNDS = 2
_LONGEST_S = 0.1
"""Of a kernel and a number of rows."""


def matrices_of(groups: Sequence[UnitGroup], dtype: torch.dtype, weights: str, device: torch.device) -> list[Shape]:
    """Those of a model's units, each once; those that a file with few bits could have instead come last."""
    found: dict[Shape, None] = {}
    for group in groups:
        unit = group.run_starts_at
        skeleton = skeleton_to_run(group.config, unit, unit)
        for packing in hold_in_few_bits(skeleton, weights, lambda _: "", dtype, device)[unit]:
            found[packing.held.matrix.shape] = None
    likewise = [shape._replace(form=form) for shape in found for form in (NIBBLES, BYTES) if weights == INT4]
    return list(dict.fromkeys((*found, *(shape for shape in likewise if shape.form.fits(shape.num_inputs)))))


def left_to_torch(config: Any, dtype: str, weights: str, orders: Sequence[KernelOrder]) -> dict[str, int]:
    """How many of a model's blocks are not run in C as a whole on the processor, by why not.

    Args:
        orders: by which kernels are chosen.
    """
    found: Counter[str] = Counter()
    computed_in = getattr(torch, dtype)
    for group in group_units(config, computed_in, weights)[1:-1]:
        unit = group.run_starts_at
        skeleton = skeleton_to_run(group.config, unit, unit)
        hold_in_few_bits(skeleton, weights, lambda _: "", computed_in, torch.device("cpu"), orders)
        for block in skeleton.blocks.values():
            if (reason := why_not(block)) is not None:
                found[reason] += len(group.units)
    return dict(found)


def time_kernels(
    matrices: Iterable[Shape], dtype: torch.dtype, memory_bytes: int, clock: Clock, share: float
) -> tuple[KernelTiming, ...]:
    """Of each matrix that several kernels could hold on the processor, as far as the time goes.

    Args:
        dtype: of the rows.
        memory_bytes: that copies may take, at most.
        share: of the clock's time until which it may go on.
    """
    device = torch.device("cpu")
    choices = [(shape, suiting(shape, dtype, device)) for shape in matrices]
    left = [(shape, kernels) for shape, kernels in choices if len(kernels) > 1]
    timings: list[KernelTiming] = []
    while left and clock.left_s(share) > 0:
        shape, kernels = left.pop(0)
        slot_s = min(_LONGEST_S, clock.left_s(share) / (len(left) + 1) / (len(kernels) * len(ROWS)))
        timings += _time(shape, kernels, dtype, memory_bytes, slot_s / _ROUNDS)
        clock.tell()
    return tuple(timings)


def are_the_same(orders: Iterable[KernelOrder], dtype: torch.dtype) -> bool:
    """Whether the kernels that were timed are those of this machine now: a compiler may have come, say."""
    for order in orders:
        shape = Shape(_form(order), order.num_outputs, order.num_inputs)
        if {kernel.name for kernel in suiting(shape, dtype, torch.device("cpu"))} != set(order.kernels):
            return False
    return True


def _form(order: KernelOrder) -> Any:
    return NIBBLES._replace(bits=order.bits, group=order.group, rounds_activations=order.rounds_activations)


def _time(
    shape: Shape, kernels: Sequence[Kernel], dtype: torch.dtype, memory_bytes: int, slot_s: float
) -> list[KernelTiming]:
    """The kernels take turns, as other programs come in bursts."""
    some = _some_of(shape)
    generator = torch.Generator().manual_seed(0)
    grouped = any_codes(some, some.num_outputs, generator)
    products = {kernel.name: _product(kernel, some, grouped, memory_bytes // len(kernels)) for kernel in kernels}
    scale = shape.num_outputs / some.num_outputs
    seconds: dict[str, list[float]] = {kernel.name: [] for kernel in kernels}
    for num_rows in ROWS:
        rows = torch.randn(num_rows, shape.num_inputs, generator=generator).to(dtype)
        times: dict[str, list[float]] = {name: [] for name in products}
        for round_ in range(_ROUNDS):
            for name, product in products.items():
                times[name] += timed(lambda product=product, rows=rows: product(rows), slot_s, is_warm=bool(round_))  # type: ignore[misc]
        for name, taken in times.items():
            seconds[name].append(max(undisturbed(sorted(taken)) * scale, 1e-9))
    return [
        KernelTiming(
            kernel.name,
            *shape.form.layout,
            shape.num_outputs,
            shape.num_inputs,
            num_bytes=Held(kernel, shape, torch.device("cpu")).num_bytes,
            seconds=tuple(seconds[kernel.name]),
        )
        for kernel in kernels
    ]


def _some_of(shape: Shape) -> Shape:
    """With as many outputs as are multiplied."""
    most = max(MOST_ELEMENTS // shape.num_inputs // OUTPUTS_STEP, 1) * OUTPUTS_STEP
    return shape if shape.num_outputs <= most else shape._replace(num_outputs=most)


def _product(kernel: Kernel, shape: Shape, grouped: Grouped, most_bytes: int) -> Callable[[Tensor], Tensor]:
    held = Held(kernel, shape, torch.device("cpu"))
    held.begin()
    held.fill(0, grouped)
    enough_bytes = min(2 * last_level_cache_bytes(), MOST_COPIES_BYTES, most_bytes)
    copies = [held.matrix]
    while (len(copies) + 1) * held.num_bytes <= enough_bytes:
        copies.append(Matrix(shape, {name: tensor.clone() for name, tensor in held.matrix.tensors.items()}))
    next_of = cycle(copies)
    return lambda rows: kernel.product(next(next_of), rows)
