"""Rounding floats to few bits: no number is further away than half a step, and what is kept in bfloat16 is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import BYTES, NIBBLES, SCHEMES, Form, bits_of, form_of

FORMS = (NIBBLES, NIBBLES._replace(group=64), BYTES)


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-3, 3),
    seed=st.integers(0, 1000),
)
def test_no_number_is_further_away_than_a_step(form: Form, scale: float, shift: float, seed: int) -> None:
    weight = (torch.randn(5, 128, generator=torch.Generator().manual_seed(seed)) + shift) * scale
    grouped = rounded(weight, form)
    steps = grouped.scales.repeat_interleave(grouped.group, 1)
    most = 2**form.bits
    assert int(grouped.codes.max()) < most
    # half a step, and at the ends what the rounding of scale and minimum to bfloat16 leaves out
    left_out = (weight.abs().amax() + steps * most) * 2.0**-8
    assert ((grouped.floats() - weight).abs() <= steps / 2 + left_out).all()


@pytest.mark.parametrize("form", FORMS)
def test_kernels_keep_scales_and_middles_as_they_are(form: Form) -> None:
    grouped = rounded(torch.randn(7, 192), form)
    middles = grouped.minima + 2 ** (form.bits - 1) * grouped.scales
    assert torch.equal(grouped.scales.bfloat16().float(), grouped.scales)
    assert torch.allclose(middles.bfloat16().float(), middles, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_groups_of_one_number_and_of_zeros_are_kept(form: Form) -> None:
    weight = torch.zeros(2, 128)
    weight[1] = 0.5
    grouped = rounded(weight, form)
    assert torch.equal(grouped.floats()[0], weight[0])
    assert (grouped.floats()[1] - 0.5).abs().max() < 0.005


def test_zero_stays_near_zero_where_all_are_positive() -> None:
    weight = torch.rand(4, 64) + 3
    assert (rounded(weight, NIBBLES).floats() - weight).abs().max() < 0.05


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_says_how_matrices_are_held(scheme: str) -> None:
    in_block, table = (form_of(scheme, "BF16", 64, is_table=is_table) for is_table in (False, True))
    assert (None if in_block is None else in_block.bits) == bits_of(scheme)
    assert table is None or table.bits == 8


@pytest.mark.parametrize(
    ("stored", "form"),
    [
        ("Q4_1", NIBBLES),
        ("Q4_K/heads=4", NIBBLES),
        ("Q8_0", BYTES),
        ("F16", None),
        ("N4_64/turned", Form(4, 64)),
        ("S4_32", Form(4, 32, is_symmetric=True)),
    ],
)
def test_auto_keeps_the_bits_of_a_file(stored: str, form: Form | None) -> None:
    assert form_of("auto", stored, 256, is_table=False) == form


@pytest.mark.parametrize(("num_inputs", "group"), [(256, 128), (576, 64), (96, 32), (33, 32)])
def test_groups_become_smaller_where_a_row_is_no_whole_number_of_them(num_inputs: int, group: int) -> None:
    form = form_of("int4-g128", "F32", num_inputs, is_table=False)
    assert form == Form(4, group)


def test_symmetric_groups_have_zero_in_the_middle() -> None:
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(0)).abs()
    grouped = rounded(weight, Form(4, 32, is_symmetric=True))
    assert torch.equal(grouped.minima, grouped.scales * -8)
    assert (grouped.floats() - weight).abs().max() <= grouped.scales.max() * 0.51
