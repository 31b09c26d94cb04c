"""Blocks of ggml are unpacked to what the package gguf makes of them, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardnet.loader.gguf import reading
from shardnet.loader.gguf.blocks import UNPACK, unpack
from shardnet.loader.gguf.reading import read_floats, read_grouped
from shardnet.loader.stored import BLOCKS, GGML_TYPES, OWN_TYPES, Stored, bytes_of, stored_as

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
KINDS = st.sampled_from(GGML_TYPES)


def random_blocks(seed: int, kind: str, num_blocks: int) -> np.ndarray:
    """Any bytes: scales that are no numbers or without end, too."""
    return np.random.default_rng(seed).integers(0, 256, (num_blocks, BLOCKS[kind][1]), dtype=np.uint8)


def expected_of(blocks: np.ndarray, kind: str) -> Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind]))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """But for which of the many values that are no numbers it is."""
    assert one.dtype == other.dtype and one.shape == other.shape
    both_none = one.isnan() & other.isnan()
    kind = torch.int32 if one.dtype == torch.float32 else torch.int16
    return bool((both_none | (one.view(kind) == other.view(kind))).all())


def reader_of(data: np.ndarray) -> Callable[[Tensor], None]:
    """Gives a file's bytes, one piece after the other."""
    left = torch.from_numpy(data.reshape(-1).copy())

    def read(target: Tensor) -> None:
        nonlocal left
        target.copy_(left[: len(target)])
        left = left[len(target) :]

    return read


def test_the_table_of_blocks_is_that_of_the_package() -> None:
    assert set(UNPACK) == {*GGML_TYPES, *OWN_TYPES}
    assert all(BLOCKS[kind] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] for kind in GGML_TYPES)


@FEW
@given(kind=KINDS, seed=st.integers(0, 2**32 - 1), num_blocks=st.integers(1, 40))
def test_any_block_is_what_the_package_says(kind: str, seed: int, num_blocks: int) -> None:
    blocks = random_blocks(seed, kind, num_blocks)
    assert same_bits(unpack(kind, torch.from_numpy(blocks)).floats(), expected_of(blocks, kind))


@pytest.mark.parametrize("kind", GGML_TYPES)
def test_all_codes_occur(kind: str) -> None:
    """So that no code is right by not being there."""
    codes = unpack(kind, torch.from_numpy(random_blocks(1, kind, 400))).codes
    bits = {"Q4": 4, "Q5": 5, "Q6": 6, "Q8": 8}[kind[:2]]
    assert codes.unique().tolist() == list(range(2**bits))


def turned(values: Tensor, heads: int) -> Tensor:
    """As transformers puts the rows of Llama's q and k in order."""
    rows = values.unflatten(0, (heads, -1, 2)).transpose(1, 2)
    return rows.flatten(0, 2)


@FEW
@given(
    kind=st.sampled_from((*GGML_TYPES, "F32", "F16", "BF16")),
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(0, 3),
    halves=st.integers(1, 5),
    num_blocks=st.integers(1, 3),
    minus_one=st.booleans(),
    piece=st.integers(1, 2000),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
)
def test_a_tensor_is_read_in_pieces_of_any_size(
    kind: str,
    seed: int,
    heads: int,
    halves: int,
    num_blocks: int,
    minus_one: bool,
    piece: int,
    dtype: torch.dtype,
) -> None:
    shape = (2 * halves * max(heads, 1), num_blocks * BLOCKS[kind][0])
    blocks = random_blocks(seed, kind, math.prod(shape) // BLOCKS[kind][0])
    expected = _plain(blocks, kind).view(shape) if kind not in UNPACK else expected_of(blocks, kind).view(shape)
    expected = turned(expected, heads) if heads else expected
    expected = (expected - 1 if minus_one else expected).to(dtype)
    target = torch.zeros(math.prod(shape), dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE_NUMBERS", piece)
        read_floats(reader_of(blocks), Stored(kind, heads, minus_one), shape, target)
    assert same_bits(target.view(shape), expected)


def _plain(blocks: np.ndarray, kind: str) -> Tensor:
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    return torch.from_numpy(blocks).view(dtype).float()


def quantised(seed: int, kind: str, shape: Sequence[int]) -> np.ndarray:
    """Blocks whose scales are numbers of a sensible size."""
    blocks = random_blocks(seed, kind, math.prod(shape) // BLOCKS[kind][0])
    halves = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(kind, (0,))
    scales = np.random.default_rng(seed).standard_normal((len(blocks), len(halves))).astype(np.float16)
    for index, first in enumerate(halves):
        blocks[:, first : first + 2] = scales[:, index : index + 1].view(np.uint8)
    return blocks


@FEW
@given(
    kind=KINDS,
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(0, 2),
    halves=st.integers(1, 3),
    piece=st.integers(1, 999),
)
def test_grouped_codes_stand_for_the_same_numbers(kind: str, seed: int, heads: int, halves: int, piece: int) -> None:
    shape = (2 * halves * max(heads, 1), 2 * BLOCKS[kind][0])
    blocks = quantised(seed, kind, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE_NUMBERS", piece)
        grouped = read_grouped(reader_of(blocks), Stored(kind, heads), shape)
    expected = expected_of(blocks, kind).view(shape)
    expected = turned(expected, heads) if heads else expected
    assert grouped.codes.shape == shape and grouped.bits == (4 if kind.startswith("Q4") else 8)
    assert grouped.group == (16 if kind == "Q6_K" else 32) and int(grouped.codes.max()) < 2**grouped.bits
    # Only Q6_K rounds a product once more: its whole numbers have a zero of 32.
    torch.testing.assert_close(grouped.floats(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert kind == "Q6_K" or torch.equal(grouped.floats(), expected)


@pytest.mark.parametrize(
    ("dtype", "shape", "num_bytes"),
    [
        ("F32", (3, 5), 60),
        ("F32/minus=1", (5,), 20),
        ("F32/heads=2", (8,), 32),
        ("Q4_1", (3, 64), 120),
        ("Q4_1", (64,), 40),
        ("Q4_1/heads=3", (6, 32), 120),
        ("Q6_K", (2, 256), 420),
        ("BF16", (), 2),
        ("Q4_1", (3, 40), None),
        ("Q4_1", (), None),
        ("Q4_1/heads=3", (8, 32), None),
        ("Q4_1/heads=2", (64,), None),
        ("Q6_K", (2, 32), None),
        ("F32/heads=2", (4, 0), None),
        ("F32/heads=2", (), None),
        ("F32", (4, 0), 0),
        ("Q2_K", (2, 256), None),
        ("F32/heads=0", (4,), None),
        ("F32/heads=-2", (4,), None),
        ("F32/minus=2", (4,), None),
        ("F32/minus=1/heads=2", (4,), None),
        ("F32/heads=2\n", (4,), None),
        ("", (4,), None),
    ],
)
def test_a_dtype_says_how_many_bytes_a_tensor_has(dtype: str, shape: tuple[int, ...], num_bytes: int | None) -> None:
    assert bytes_of(dtype, shape) == num_bytes
    stored = stored_as(dtype)
    assert stored is None or stored.dtype == dtype
