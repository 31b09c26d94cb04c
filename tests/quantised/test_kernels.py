"""Every kernel multiplies by the numbers that it was given, for every shape that it says it can do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardnet.models.kv import ON_CPU
from shardnet.plan import KernelOrder
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.choosing import KERNELS, kernel_for
from shardnet.quantised.kernels.choosing import suiting as suiting_kernels
from shardnet.quantised.kernels.dyn4bit import Dyn4Bit, gives_what_it_should
from shardnet.quantised.kernels.kernel import Kernel, Shape
from shardnet.quantised.kernels.plain import Plain
from shardnet.quantised.linear import Held
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import BYTES, BYTES_BY_BYTES, NIBBLES, Form

FORMS = (NIBBLES, NIBBLES._replace(group=64), NIBBLES._replace(group=128), BYTES, BYTES_BY_BYTES)
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
NEAR = {torch.bfloat16: 0.01, torch.float16: 2e-3, torch.float32: 2e-6}
"""Of the length of an output row."""
ROUNDED_ACTIVATIONS = 0.02


def suiting() -> list[tuple[Kernel, Form, torch.dtype]]:
    shape = (256, 512)
    return [
        (kernel, form, dtype)
        for kernel in KERNELS
        for form in FORMS
        for dtype in DTYPES
        if kernel.suits(Shape(form, *shape), dtype, ON_CPU)
    ]


def laid_out(kernel: Kernel, grouped: Grouped, form: Form, step: int = 64) -> Held:
    num_outputs, num_inputs = grouped.codes.shape
    held = Held(kernel, Shape(form, num_outputs, num_inputs), ON_CPU)
    held.begin()
    for first in range(0, num_outputs, step):
        rows = slice(first, first + step)
        held.fill(first, Grouped(grouped.codes[rows], grouped.scales[rows], grouped.minima[rows], grouped.bits))
    assert held.num_bytes == sum(tensor.nbytes for tensor in held.matrix.tensors.values())
    return held


def random_weight(num_outputs: int, num_inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kernel", "form", "dtype"), suiting(), ids=lambda each: getattr(each, "name", str(each)))
@pytest.mark.parametrize("num_rows", [1, 3, 40, 130])
def test_a_kernel_multiplies_by_what_it_was_given(
    kernel: Kernel, form: Form, dtype: torch.dtype, num_rows: int
) -> None:
    grouped = rounded(random_weight(256, 512), form)
    rows = random_weight(num_rows, 512, seed=1).to(dtype)
    outputs = laid_out(kernel, grouped, form).product(rows)
    assert outputs.dtype == dtype
    near = ROUNDED_ACTIVATIONS if form.rounds_activations and not isinstance(kernel, Plain) else NEAR[dtype]
    assert_near(outputs, rows.double() @ grouped.floats().double().t(), near)


def assert_near(outputs: Tensor, wanted: Tensor, near: float) -> None:
    error = (outputs.double() - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < near


@settings(max_examples=40, deadline=None)
@given(outputs=st.integers(1, 90), groups=st.integers(1, 9), form=st.sampled_from(FORMS), dtype=st.sampled_from(DTYPES))
def test_some_kernel_can_do_every_shape_of_whole_groups(
    outputs: int, groups: int, form: Form, dtype: torch.dtype
) -> None:
    num_inputs = groups * (form.group or 32)
    kernel = kernel_for(Shape(form, outputs, num_inputs), dtype, ON_CPU)
    assert kernel is not None
    grouped = rounded(random_weight(outputs, num_inputs), form)
    rows = random_weight(2, num_inputs, seed=1).to(dtype)
    near = ROUNDED_ACTIVATIONS if form.rounds_activations else NEAR[dtype]
    wanted = rows.double() @ grouped.floats().double().t()
    scale = rows.double().norm(dim=1) * grouped.floats().double().norm()
    error = (laid_out(kernel, grouped, form).product(rows).double() - wanted).norm(dim=1) / scale
    assert error.max() < near


@pytest.mark.parametrize("kernel", [kernel for kernel, form, dtype in suiting() if form == BYTES], ids=lambda k: k.name)
def test_tables_give_the_rows_that_are_looked_up(kernel: Kernel) -> None:
    grouped = rounded(random_weight(70, 64), BYTES)
    indices = torch.tensor([3, 69, 3, 0])
    looked_up = kernel.look_up(laid_out(kernel, grouped, BYTES).matrix, indices, torch.float32)
    assert torch.allclose(looked_up, grouped.floats()[indices], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("num_outputs", [70, 192])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tables_of_every_form_are_looked_up(form: Form, num_outputs: int, dtype: torch.dtype) -> None:
    """An embedding in Q4_1 was held by a kernel that could not: the first step ended the stage."""
    kernel = kernel_for(Shape(form, num_outputs, 256), dtype, ON_CPU, is_looked_up=True)
    assert kernel is not None
    grouped = rounded(random_weight(num_outputs, 256), form)
    indices = torch.tensor([3, num_outputs - 1, 3, 0, 35])
    looked_up = kernel.look_up(laid_out(kernel, grouped, form).matrix, indices, dtype)
    assert looked_up.dtype == dtype
    assert_near(looked_up, grouped.floats()[indices].double(), NEAR[dtype])


@pytest.mark.parametrize("form", FORMS)
def test_a_number_that_is_none_shows_in_its_own_row(form: Form) -> None:
    grouped = rounded(random_weight(64, 256), form)
    rows = random_weight(3, 256, seed=1)
    rows[1, 7] = torch.inf
    for dtype in DTYPES:
        kernel = kernel_for(Shape(form, 64, 256), dtype, ON_CPU)
        assert kernel is not None
        outputs = laid_out(kernel, grouped, form).product(rows.to(dtype))
        assert not outputs[1].isfinite().any(), kernel.name
        assert outputs[::2].isfinite().all(), kernel.name


@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(960, 576), (2048, 5632), (32000, 2048)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_plans_know_what_a_matrix_takes_whichever_kernel_holds_it(
    form: Form, num_outputs: int, num_inputs: int
) -> None:
    shape = Shape(form, num_outputs, num_inputs)
    for dtype in DTYPES:
        for kernel in suiting_kernels(shape, dtype, ON_CPU):
            num_bytes = Held(kernel, shape, ON_CPU).num_bytes
            assert num_bytes == pytest.approx(form.num_bytes(num_outputs, num_inputs), rel=0.006), kernel.name


@settings(max_examples=60, deadline=None)
@given(names=st.permutations([kernel.name for kernel in KERNELS]), form=st.sampled_from(FORMS), looked_up=st.booleans())
def test_the_first_of_an_order_that_suits_holds_the_matrix(names: list[str], form: Form, looked_up: bool) -> None:
    shape = Shape(form, 192, 256)
    order = KernelOrder(*form.layout, 192, 256, tuple(names))
    others = KernelOrder(*form.layout, 192, 512, (Plain.name,))
    for dtype in DTYPES:
        able = {each.name for each in suiting_kernels(shape, dtype, ON_CPU, is_looked_up=looked_up)}
        chosen = kernel_for(shape, dtype, ON_CPU, is_looked_up=looked_up, orders=[others, order])
        assert chosen is not None and chosen.name == next(name for name in names if name in able)
        unknown = kernel_for(shape, dtype, ON_CPU, is_looked_up=looked_up, orders=[others])
        assert unknown == kernel_for(shape, dtype, ON_CPU, is_looked_up=looked_up)


@pytest.mark.parametrize("num_outputs", [32, 1024, 2080])
@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_of_arm_is_right_also_where_minima_are(num_outputs: int, group: int, dtype: torch.dtype) -> None:
    """Elsewhere PyTorch has it as a plain loop, which is never chosen: it shows that the numbers are right."""
    kernel, form = Dyn4Bit(), NIBBLES._replace(group=group)
    assert gives_what_it_should()
    shape = Shape(form, num_outputs, 128)
    assert kernel.can_hold(shape) and not kernel.can_look_up(shape)
    grouped = rounded(random_weight(num_outputs, 128) + 0.5, form)
    held = laid_out(kernel, grouped, form, step=kernel.row_step)
    at_once = laid_out(kernel, grouped, form, step=num_outputs)
    rows = random_weight(5, 128, seed=1).to(dtype)
    assert torch.equal(held.product(rows), at_once.product(rows))
    assert_near(held.product(rows), rows.double() @ grouped.floats().double().t(), ROUNDED_ACTIVATIONS)


def test_what_the_product_of_arm_cannot_hold_is_left_to_others() -> None:
    kernel = Dyn4Bit()
    for shape in (Shape(NIBBLES, 40, 64), Shape(NIBBLES._replace(group=64), 32, 96), Shape(BYTES, 32, 64)):
        assert not kernel.can_hold(shape)
