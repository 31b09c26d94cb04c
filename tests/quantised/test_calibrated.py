"""Codes by what a text shows: less error where inputs go together, and numbers whatever is put in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import peak_bytes
from torch import Tensor

from shardnet.quantised.calibrated import DAMPING, UNSEEN, Shown, calibrated, shown_by
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


def shown(rows: Tensor, size: float = 1.0) -> Shown:
    return shown_by(rows.t() @ rows * size, len(rows))


def error(weight: Tensor, form: Form, rows: Tensor, by: Shown | None) -> float:
    grouped = rounded(weight, form) if by is None else calibrated(weight, by, form)
    return float((rows @ (grouped.floats() - weight).t()).square().sum())


@pytest.mark.parametrize("form", FORMS)
def test_products_are_off_by_less_than_half_on_other_rows_of_the_kind(form: Form) -> None:
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(1))
    seen, rows = inputs(3000, 256).split(2000)
    assert error(weight, form, rows, shown(seen)) < 0.5 * error(weight, form, rows, None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_rows", [0, 1, 7, 30, 64, 200])
def test_few_rows_do_no_harm_to_others(form: Form, num_rows: int) -> None:
    """Fewer rows than inputs do not show how all inputs go together."""
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(1))
    seen, rows = inputs(2200, 256).split((200, 2000))
    assert error(weight, form, rows, shown(seen[:num_rows])) < error(weight, form, rows, None)


@pytest.mark.parametrize("form", FORMS)
def test_what_nothing_is_shown_of_is_rounded_with_the_best_of_the_ranges(form: Form) -> None:
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(1))
    for by in (shown(torch.zeros(0, 256)), shown(torch.zeros(5, 256)), shown(torch.full((3, 256), float("nan")))):
        assert torch.equal(by.upper, torch.eye(256))
        grouped, plain = calibrated(weight, by, form), rounded(weight, form)
        off, plainly_off = ((each.floats() - weight).square().sum() for each in (grouped, plain))
        assert 0 < off < plainly_off


def test_outputs_do_not_depend_on_each_other() -> None:
    weight, by = torch.randn(40, 128, generator=torch.Generator().manual_seed(2)), shown(inputs(500, 128))
    whole, part = calibrated(weight, by, FORMS[0]), calibrated(weight[8:24], by, FORMS[0])
    assert torch.equal(whole.scales[8:24], part.scales)
    assert (whole.codes[8:24] != part.codes).float().mean() < 0.01


def test_the_factor_is_that_of_the_inverse() -> None:
    rows = inputs(600, 129)
    energy, by = rows.t() @ rows, shown(rows)
    believed = 600 / (600 + UNSEEN * 129)
    energy = energy / energy.diagonal().mean() * believed + (1.0 - believed + DAMPING) * torch.eye(129)
    inverse = energy[by.order][:, by.order].double().inverse()
    assert torch.equal(by.upper, by.upper.triu())
    assert (by.upper.double().t() @ by.upper.double() - inverse).abs().max() < 1e-3 * inverse.abs().max()


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
    grouped = calibrated(weight, shown(rows, energy_size), form)
    assert torch.equal(weight, before)
    assert grouped.codes.shape == weight.shape and int(grouped.codes.max()) < 16
    assert bool(grouped.floats().isfinite().all())
    assert torch.equal(grouped.scales, grouped.scales.bfloat16().float())
    middles = grouped.minima + 8 * grouped.scales
    assert torch.allclose(middles, middles.bfloat16().float(), rtol=1e-5, atol=1e-30)
    assert not form.is_symmetric or not middles.any()


def test_the_same_twice() -> None:
    weight, rows = torch.randn(32, 128, generator=torch.Generator().manual_seed(2)), inputs(500, 128)
    one, other = (calibrated(weight, shown(rows), FORMS[1]) for _ in range(2))
    assert torch.equal(one.codes, other.codes) and torch.equal(one.minima, other.minima)


def test_many_inputs_take_two_squares_and_no_third() -> None:
    """With more than the 32 MiB from which on what is freed goes back to the machine."""
    num_inputs = 3000
    energy = torch.full((num_inputs, num_inputs), 0.5).fill_diagonal_(1.0)
    shown(inputs(8, 64))
    before = peak_bytes(from_now=True)
    by = shown_by(energy, num_inputs)
    assert peak_bytes() - before < 1.3 * energy.nbytes
    assert by.upper.data_ptr() == energy.data_ptr()
