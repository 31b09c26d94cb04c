"""Weights in 4 bits whose scales and minima are fitted: never worse than plain rounding, and within little memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shardnet.quantised import fitting
from shardnet.quantised.fitting import fitted

GROUPS = (32, 64, 128)


def weight(num_outputs: int = 48, num_inputs: int = 256) -> Tensor:
    """With a few numbers far from the others, as models have them."""
    numbers = torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(3)) * 0.05
    numbers[::7, ::50] *= 6
    return numbers


def plain(numbers: Tensor, group: int, is_symmetric: bool) -> Tensor:
    """Each group's range in 15 equal steps."""
    groups = numbers.unflatten(1, (-1, group))
    if is_symmetric:
        scales = (groups.abs().amax(-1, keepdim=True) / 7).bfloat16().float()
        return ((groups / scales).round().clamp(-8, 7) * scales).flatten(1)
    least = groups.amin(-1, keepdim=True)
    scales = ((groups.amax(-1, keepdim=True) - least) / 15).bfloat16().float()
    return ((((groups - least) / scales).round().clamp(0, 15)) * scales + least).flatten(1)


def errors(numbers: Tensor, others: Tensor, group: int) -> Tensor:
    """Of each group, the sum of squares."""
    return (others - numbers).unflatten(1, (-1, group)).square().sum(-1)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_it_loses_clearly_less_than_plain_rounding(group: int, is_symmetric: bool) -> None:
    numbers = weight()
    found = fitted(numbers, group, is_symmetric=is_symmetric)
    assert (found.codes.shape, found.codes.dtype, found.bits) == (numbers.shape, torch.uint8, 4)
    assert found.scales.shape == found.minima.shape == (48, 256 // group) and found.group == group
    assert int(found.codes.max()) <= 15
    here = errors(numbers, found.floats(), group)
    there = errors(numbers, plain(numbers, group, is_symmetric), group)
    assert here.sum() < 0.9 * there.sum()
    assert (here <= there * 1.02 + 1e-6).all(), "and in no group more, but for how minima are kept"


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_it_is_kept_as_kernels_keep_it(is_symmetric: bool) -> None:
    found = fitted(weight(), 64, is_symmetric=is_symmetric)
    at_middle = found.minima + 8 * found.scales
    assert torch.equal(found.scales, found.scales.bfloat16().float())
    assert torch.allclose(at_middle, at_middle.bfloat16().float(), atol=1e-7)
    assert not is_symmetric or torch.equal(found.minima, -8 * found.scales)


def test_rows_are_fitted_some_at_a_time_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(weight(), 32)
    monkeypatch.setattr(fitting, "MOST_NUMBERS", 5 * 256 + 1)
    sizes: list[int] = []
    one = fitting._fitted
    monkeypatch.setattr(fitting, "_fitted", lambda rows, *more: (sizes.append(len(rows)), one(rows, *more))[1])
    parts = fitted(weight(), 32)
    assert sizes == [5] * 9 + [3]
    assert all(torch.equal(here, there) for here, there in zip(whole[:3], parts[:3], strict=True))


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_groups_without_a_range_are_as_they_were(is_symmetric: bool) -> None:
    """All numbers alike, or none but 0."""
    numbers = torch.zeros(3, 64)
    numbers[1], numbers[2] = 0.5, -0.25
    found = fitted(numbers, 32, is_symmetric=is_symmetric)
    assert found.floats().isfinite().all()
    assert torch.allclose(found.floats(), numbers, atol=0.005)


def test_what_four_bits_hold_exactly_is_kept() -> None:
    """As the numbers of a Q4_1 file in its own groups."""
    codes = torch.arange(16).repeat(8, 4).float()
    numbers = codes * 0.0625 - 0.5
    assert torch.equal(fitted(numbers, 32).floats(), numbers)
