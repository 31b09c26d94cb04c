"""Heads in 8 bits: near what they were, each by itself, and none where a number is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardnet.quantised.kv_names import AUTO, INT8, head_bytes
from shardnet.quantised.kv_rows import apart, decode, encode, width_of

SPREADS = st.floats(1e-6, 1e6)
SIZES = st.integers(1, 130)


def heads(seed: int, size: int, spread: float, shift: float) -> torch.Tensor:
    numbers = torch.randn(2, 5, 3, size, generator=torch.Generator().manual_seed(seed))
    return numbers * spread + shift * spread


@given(st.integers(0, 10**6), SIZES, SPREADS, st.floats(-50, 50))
def test_a_head_comes_back_within_half_a_step(seed: int, size: int, spread: float, shift: float) -> None:
    numbers = heads(seed, size, spread, shift)
    rows = encode(numbers)
    assert rows.dtype == torch.int8 and rows.shape == (2, 5, 3, width_of(size))
    step = apart(rows, size).scales[..., None]
    error = (decode(rows, size, torch.float32) - numbers).abs()
    assert (error <= 0.501 * step + 1e-6 * numbers.abs()).all()
    low, high = numbers.aminmax(dim=-1, keepdim=True)
    largest = torch.maximum(low.abs(), high.abs())
    assert (step <= ((high - low) / 2 + largest / 128) / 126).all()


@given(st.integers(0, 10**6), SIZES, SPREADS, st.floats(-5, 5), st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_a_head_becomes_depends_on_it_alone(
    seed: int, size: int, spread: float, shift: float, dtype: torch.dtype
) -> None:
    numbers = heads(seed, size, spread, shift).to(dtype)
    together = encode(numbers.transpose(0, 1))
    for first in range(5):
        assert torch.equal(together[first], encode(numbers[:, first]))
        assert torch.equal(together[first, 1, 2], encode(numbers[1, first, 2]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_head_with_a_number_that_is_not_finite_is_none(wrong: float) -> None:
    numbers = heads(1, 16, 1.0, 0.0)
    numbers[0, 2, 1, 7] = wrong
    found = decode(encode(numbers), 16, torch.float32)
    assert not found[0, 2, 1].isfinite().any()
    found[0, 2, 1] = 0.0
    assert found.isfinite().all()


@pytest.mark.parametrize("number", [0.0, 7.125, -3e-30, 1e30])
def test_equal_numbers_come_back(number: float) -> None:
    numbers = torch.full((3, 8), number)
    assert torch.allclose(decode(encode(numbers), 8, torch.float32), numbers, rtol=1e-4, atol=0.0)


def test_none_at_all() -> None:
    assert decode(encode(torch.empty(0, 1, 16)), 16, torch.float32).shape == (0, 1, 16)


def test_bytes_of_a_head() -> None:
    assert [head_bytes(INT8, size, 2) for size in (64, 128, 7)] == [68, 132, 12]
    assert [head_bytes(AUTO, size, 2) for size in (64, 7)] == [128, 14]
