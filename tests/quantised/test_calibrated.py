"""Codes by what a text shows: less error where inputs go together, and numbers whatever is put in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardnet.quantised.calibrated import calibrated
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form

FORMS = (Form(4, 32), Form(4, 64), Form(4, 128), Form(4, 32, is_symmetric=True))


def inputs(num_rows: int, num_inputs: int, seed: int = 0) -> Tensor:
    """Rows in which inputs go together, and some are much larger than others, as in a model."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(num_rows, num_inputs // 4, generator=draw) @ torch.randn(
        num_inputs // 4, num_inputs, generator=draw
    )
    return (mixed + torch.randn(num_rows, num_inputs, generator=draw)) * torch.rand(num_inputs, generator=draw).exp()


def error(weight: Tensor, form: Form, rows: Tensor, energy: Tensor | None) -> float:
    grouped = rounded(weight, form) if energy is None else calibrated(weight, energy, form)
    return float((rows @ (grouped.floats() - weight).t()).square().sum())


@pytest.mark.parametrize("form", FORMS)
def test_products_are_off_by_less_than_half_on_other_rows_of_the_kind(form: Form) -> None:
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(1))
    shown, rows = inputs(3000, 256).split(2000)
    assert error(weight, form, rows, shown.t() @ shown) < 0.5 * error(weight, form, rows, None)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    form=st.sampled_from(FORMS),
    num_outputs=st.integers(1, 5),
    num_groups=st.integers(1, 2),
    num_rows=st.integers(0, 3),
    size=st.sampled_from((0.0, 1e-30, 1.0, 1e15)),
    energy_size=st.sampled_from((0.0, 1e-30, 1.0, 1e15)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_matrix_and_any_text_give_numbers(
    form: Form, num_outputs: int, num_groups: int, num_rows: int, size: float, energy_size: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    num_inputs = num_groups * form.group
    weight = torch.randn(num_outputs, num_inputs, generator=draw) * size
    rows = torch.randn(num_rows, num_inputs, generator=draw)
    before = weight.clone()
    grouped = calibrated(weight, rows.t() @ rows * energy_size, form)
    assert torch.equal(weight, before)
    assert grouped.codes.shape == weight.shape and int(grouped.codes.max()) < 16
    assert bool(grouped.floats().isfinite().all())
    assert torch.equal(grouped.scales, grouped.scales.bfloat16().float())
    middles = grouped.minima + 8 * grouped.scales
    assert torch.allclose(middles, middles.bfloat16().float(), rtol=1e-5, atol=1e-30)
    assert not form.is_symmetric or not middles.any()


def test_the_same_twice() -> None:
    weight, rows = torch.randn(32, 128, generator=torch.Generator().manual_seed(2)), inputs(500, 128)
    one, other = (calibrated(weight, rows.t() @ rows, FORMS[1]) for _ in range(2))
    assert torch.equal(one.codes, other.codes) and torch.equal(one.minima, other.minima)
