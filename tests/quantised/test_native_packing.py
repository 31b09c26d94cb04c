"""Rows of a file that C lays out are those that Python makes numbers of, rounds and lays out, to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardnet.loader.gguf.reading import TORCH_TYPES, read_floats, read_grouped
from shardnet.loader.stored import BLOCKS, Stored
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.native.packing import TILE, no_weight, pack
from shardnet.quantised.native.products import STORED, Native
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import BYTES, NIBBLES, Form

HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where blocks have floats, but at their beginning."""


def stored_rows(kind: str, num_rows: int, num_inputs: int, size: float, seed: int) -> Tensor:
    """uint8 [rows, bytes of a row], random codes and numbers of about a size."""
    draw = torch.Generator().manual_seed(seed)
    if kind in TORCH_TYPES:
        return (torch.randn(num_rows, num_inputs, generator=draw) * size).to(TORCH_TYPES[kind]).view(torch.uint8)
    numbers, num_bytes = BLOCKS[kind]
    blocks = torch.randint(0, 256, (num_rows, num_inputs // numbers, num_bytes), generator=draw, dtype=torch.uint8)
    for first in HALVES.get(kind, (0,)):
        scales = (torch.randn(*blocks.shape[:2], 1, generator=draw) * size).half()
        blocks[..., first : first + 2] = scales.view(torch.uint8)
    return blocks.flatten(1)


def in_python(kind: str, rows: Tensor, num_inputs: int, form: Form) -> Grouped:
    """What the same rows become without C."""
    flat, shape, done = rows.flatten(), (len(rows), num_inputs), 0

    def read(target: Tensor) -> None:
        nonlocal done
        target.copy_(flat[done : done + len(target)])
        done += len(target)

    if kind.startswith("Q4") and form == NIBBLES:
        return read_grouped(read, Stored(kind), shape)
    values = torch.empty(len(rows) * num_inputs)
    read_floats(read, Stored(kind), shape, values)
    return rounded(values.view(shape), form)


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(STORED),
    form=st.sampled_from([NIBBLES, BYTES]),
    num_rows=st.integers(1, 50),
    num_blocks=st.integers(1, 3),
    size=st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 100.0]),
    is_turned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_rows_of_every_kind(
    native: Native, kind: str, form: Form, num_rows: int, num_blocks: int, size: float, is_turned: bool, seed: int
) -> None:
    num_inputs = num_blocks * max(BLOCKS[kind][0], 64)
    rows = stored_rows(kind, num_rows, num_inputs, size, seed)
    order = torch.randperm(num_rows) if is_turned else None
    want = pack(in_python(kind, rows if order is None else rows[order], num_inputs, form))
    got = no_weight(num_rows, num_inputs, form.group_of(num_inputs), form.bits)
    got.blocks.fill_(77)  # all of it is written
    native.pack(got, 0, kind, rows, order)
    header = 4 * TILE
    assert got.blocks[..., header:].equal(want.blocks[..., header:])
    numbers, wanted = (each.blocks[..., :header].contiguous().view(torch.float16) for each in (got, want))
    assert bool((numbers == wanted).all())  # zeros of either sign
    assert got.units.equal(want.units)


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "BF16"])
def test_some_rows_after_the_other_on_threads(native: Native, kind: str, two_threads: None) -> None:
    rows = stored_rows(kind, 210, 512, 0.1, 3)
    whole, parts = (no_weight(210, 512, 32, 4) for _ in range(2))
    torch.set_num_threads(1)
    native.pack(whole, 0, kind, rows, None)
    torch.set_num_threads(2)
    for first, end in ((0, 16), (16, 96), (96, 210)):
        native.pack(parts, first, kind, rows[first:end], None)
    assert whole.blocks.equal(parts.blocks)
    assert whole.units.equal(parts.units)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", [NIBBLES, BYTES])
def test_what_is_no_number_is_refused(native: Native, odd: float, form: Form) -> None:
    values = torch.randn(20, 64)
    values[18, 3] = odd
    weight = no_weight(20, 64, form.group_of(64), form.bits)
    with pytest.raises(ValueError, match="not finite"):
        native.pack(weight, 0, "F32", values.view(torch.uint8), None)
    blocks = stored_rows("Q4_1", 20, 64, 1.0, 0)
    blocks[19, 20:22] = torch.tensor([odd], dtype=torch.float16).view(torch.uint8)
    with pytest.raises(ValueError, match="not finite"):
        native.pack(weight, 0, "Q4_1", blocks, None)


def test_other_rows_are_refused(native: Native) -> None:
    weight = no_weight(20, 64, 32, 4)
    rows = stored_rows("Q4_1", 20, 64, 1.0, 0)
    with pytest.raises(ValueError, match="A row of 64 numbers in Q6_K has not 40 bytes"):
        native.pack(weight, 0, "Q6_K", rows, None)
    with pytest.raises(ValueError, match="There are 20 outputs, and not 20 more from 16 on"):
        native.pack(weight, 16, "Q4_1", rows, None)
    with pytest.raises(ValueError, match="their order int64"):
        native.pack(weight, 0, "Q4_1", rows, torch.arange(19))
