"""Products in C against the same quantised numbers in float64, for odd shapes, odd numbers and odd memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.native.packing import Packed, fill, no_weight, pack, why_not
from shardnet.quantised.native.products import Native

FLOATING = [torch.float32, torch.bfloat16, torch.float16]


def drawn(num_outputs: int, num_inputs: int, group: int, bits: int, seed: int = 0) -> Grouped:
    """Scales and minima are numbers of float16, so that packing rounds nothing."""
    torch.manual_seed(seed)
    codes = torch.randint(0, 2**bits, (num_outputs, num_inputs), dtype=torch.uint8)
    scales = (torch.randn(num_outputs, num_inputs // group) / 2**bits).half().float()
    return Grouped(codes, scales, (torch.randn_like(scales) * 0.5).half().float(), bits)


def rounded(rows: Tensor) -> Tensor:
    """As the products round activations: to 8 bits in groups of 32; float64."""
    groups = rows.float().unflatten(1, (-1, 32))
    largest = groups.abs().amax(2, keepdim=True)
    inverse = torch.full_like(largest, 127).div_(largest)  # 127 / largest would be rounded twice
    codes = (groups * inverse).round().nan_to_num_(0)
    return (codes.double() * (largest / 127)).flatten(1)


def assert_right(out: Tensor, rows: Tensor, weight: Grouped) -> None:
    numbers = weight.floats().double()
    want = rounded(rows) @ numbers.T
    size = rounded(rows).abs() @ numbers.T.abs()
    allowed = size * 1e-6 + want.abs() * torch.finfo(out.dtype).eps + 1e-7
    assert bool(((out.double() - want).abs() <= allowed).all())


@settings(max_examples=60, deadline=None)
@given(
    num_outputs=st.integers(1, 70),
    groups=st.integers(1, 7),
    form=st.sampled_from([(4, 32), (4, 64), (4, 96), (8, 16), (8, 32), (8, 64), (8, 160)]),
    num_rows=st.integers(0, 20),
    kinds=st.tuples(st.sampled_from(FLOATING), st.sampled_from(FLOATING)),
    seed=st.integers(0, 1000),
)
def test_products_are_those_of_the_quantised_numbers(
    native: Native, num_outputs: int, groups: int, form: tuple[int, int], num_rows: int, kinds: tuple, seed: int
) -> None:
    bits, group = form
    num_inputs = groups * max(group, 32)
    weight = drawn(num_outputs, num_inputs, group, bits, seed)
    rows = torch.randn(num_rows, num_inputs).to(kinds[0])
    out = native.product(rows, pack(weight), torch.full((num_rows, num_outputs), 9.0).to(kinds[1]))
    assert_right(out, rows, weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_those_beside_it(native: Native, bits: int) -> None:
    """Otherwise a step of several tokens, or of several sessions, would choose other tokens than one alone."""
    weight = pack(drawn(35, 5120, 32, bits))
    rows = torch.randn(512, 5120)
    together = native.product(rows, weight)
    for first, num in [(0, 1), (1, 1), (2, 3), (5, 4), (9, 7), (16, 8), (24, 64), (505, 7)]:
        alone = native.product(rows[first : first + num], weight)
        assert alone.equal(together[first : first + num])


@pytest.mark.parametrize("num_rows", [1, 5, 70])
def test_threads_change_nothing(native: Native, num_rows: int, two_threads: None) -> None:
    weight = pack(drawn(1000, 96, 32, 4))
    rows = torch.randn(num_rows, 96)
    shared = native.product(rows, weight)
    torch.set_num_threads(1)
    assert shared.equal(native.product(rows, weight))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATING)
def test_what_is_no_number_stays_in_its_row(native: Native, odd: float, dtype: torch.dtype) -> None:
    weight = pack(drawn(35, 96, 32, 4))
    rows = torch.randn(4, 96).to(dtype)
    good = native.product(rows, weight)
    rows[2, 40] = odd
    out = native.product(rows, weight)
    assert bool(out[2].isnan().all())
    assert out[[0, 1, 3]].equal(good[[0, 1, 3]])


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e30, 1e33, 3e38])
def test_activations_of_any_size(native: Native, size: float) -> None:
    """What is so small that 127 / it is infinite counts as zero; sums that are too large for float32 are no numbers."""
    weight = drawn(17, 64, 32, 8)
    rows = (torch.rand(2, 64) - 0.5) * 2 * size
    out = native.product(rows, pack(weight))
    if size < 1e-36:
        assert bool((out.abs() <= 1e-36).all())
        return
    want = rounded(rows / size) @ weight.floats().double().T
    counted = out.isfinite()
    assert bool(counted.all()) or size == 3e38
    assert bool(((out.double() / size - want).abs() <= 1e-4)[counted].all())


@pytest.mark.parametrize("size", [1e-12, 1e-5, 1.0, 1e6, 1e20])
def test_weights_of_any_size(native: Native, size: float) -> None:
    """Once, scales below 6e-5 would have lost bits in float16."""
    weight = drawn(17, 64, 32, 4)
    power = 2.0 ** round(torch.tensor(size).log2().item())
    sized = weight._replace(scales=weight.scales * power, minima=weight.minima * power)
    rows = torch.randn(3, 64)
    assert native.product(rows, pack(sized)).equal(native.product(rows, pack(weight)) * power)


def test_no_weight_at_all(native: Native) -> None:
    nothing = Grouped(torch.zeros(17, 64, dtype=torch.uint8), torch.zeros(17, 2), torch.zeros(17, 2), 4)
    assert native.product(torch.randn(3, 64), pack(nothing)).equal(torch.zeros(3, 17))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_results_are_rounded_as_torch_rounds(native: Native, dtype: torch.dtype) -> None:
    """Subnormal numbers and those that are too large, too."""
    weight = pack(drawn(160, 32, 32, 8))
    rows = torch.randn(60, 32) * torch.logspace(-10, 6, 60)[:, None]
    wide = native.product(rows, weight)
    assert native.product(rows, weight, wide.to(dtype).zero_()).equal(wide.to(dtype))
    rows = rows[:50]
    assert native.product(rows.to(dtype), weight).equal(native.product(rows.to(dtype).float(), weight).to(dtype))


def test_rows_may_lie_apart_and_anywhere(native: Native) -> None:
    weight = pack(drawn(35, 96, 32, 4))
    rows = torch.randn(3, 96)
    want = native.product(rows, weight)
    apart = torch.zeros(3, 200)
    apart[:, 7:103] = rows
    out = torch.full((3, 60), 7.0)
    native.product(apart[:, 7:103], weight, out[:, 1:36])
    assert out[:, 1:36].equal(want)
    assert bool((out[:, :1] == 7).all() and (out[:, 36:] == 7).all())
    memory = torch.zeros(weight.blocks.numel() + 3, dtype=torch.uint8)
    memory[3:] = weight.blocks.flatten()
    assert native.product(rows, weight._replace(blocks=memory[3:].view(weight.blocks.shape))).equal(want)


def test_no_gradient_is_lost(native: Native) -> None:
    """What came of rows that want one looked like a constant."""
    weight, rows = pack(drawn(16, 32, 32, 8)), torch.randn(2, 32, requires_grad=True)
    with pytest.raises(ValueError, match="rows wants a gradient"):
        native.product(rows, weight)
    with torch.no_grad():
        assert native.product(rows, weight).shape == (2, 16)


def test_what_is_refused(native: Native) -> None:
    weight = pack(drawn(35, 96, 32, 4))
    rows = torch.randn(3, 96)
    with pytest.raises(ValueError, match=r"rows must be \[rows, 96\], and not \[3, 64\]"):
        native.product(rows[:, :64], weight)
    with pytest.raises(ValueError, match="side by side"):
        native.product(torch.randn(96, 3).T, weight)
    with pytest.raises(ValueError, match=r"not torch\.float64 on cpu"):
        native.product(rows.double(), weight)
    with pytest.raises(ValueError, match="on meta"):
        native.product(rows.to("meta"), weight)
    with pytest.raises(ValueError, match="out has 2 rows, and not 3"):
        native.product(rows, weight, torch.empty(2, 35))
    with pytest.raises(ValueError, match="The blocks of a weight must be"):
        native.product(rows, weight._replace(blocks=weight.blocks[1:]))
    with pytest.raises(ValueError, match="The blocks of a weight must be"):
        native.product(rows, weight._replace(blocks=weight.blocks.transpose(0, 1).contiguous().transpose(0, 1)))


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 96), (8, 16), (8, 32), (8, 96)])
def test_rows_of_the_weight(native: Native, bits: int, group: int) -> None:
    weight = drawn(35, 96, group, bits)
    ids = torch.tensor([34, 0, 17, 17])
    packed = pack(weight)
    assert native.gather(ids, packed, torch.empty(4, 96)).equal(weight.floats()[ids])
    want = weight.floats()[ids].bfloat16()
    assert native.gather(ids, packed, torch.empty(4, 96, dtype=torch.bfloat16)).equal(want)
    for bad in (-1, 35):
        with pytest.raises(IndexError, match="from 0 to 34"):
            native.gather(torch.tensor([0, bad]), packed, torch.empty(2, 96))
    with pytest.raises(ValueError, match="int64"):
        native.gather(ids.int(), packed, torch.empty(4, 96))
    with pytest.raises(ValueError, match="out has 3 rows, and not 4"):
        native.gather(ids, packed, torch.empty(3, 96))


def bits_a_weight(weight: Packed) -> float:
    return weight.blocks.numel() * 8 / (weight.num_outputs * weight.num_inputs)


def test_what_packing_takes() -> None:
    assert bits_a_weight(pack(drawn(32, 256, 32, 4))) == 5
    assert bits_a_weight(pack(drawn(32, 256, 128, 4))) == 4.25
    assert bits_a_weight(pack(drawn(32, 256, 32, 8))) == 9


def test_a_weight_is_filled_some_outputs_at_a_time() -> None:
    """As a device reads it, without ever having all of it in floats. Tiles may differ in size by far."""
    weight = drawn(50, 64, 32, 4)
    far = torch.tensor([1.0] * 20 + [2.0**-40] * 30)[:, None]
    weight = weight._replace(scales=weight.scales * far, minima=weight.minima * far)
    whole, filled = pack(weight), no_weight(50, 64, 32, 4)
    for first, end in [(32, 50), (0, 16), (16, 32)]:
        some = Grouped(weight.codes[first:end], weight.scales[first:end], weight.minima[first:end], 4)
        fill(filled, first, some)
    assert filled.blocks.equal(whole.blocks) and filled.units.equal(whole.units)
    assert whole.units.unique().numel() > 1


def test_what_cannot_be_packed() -> None:
    assert why_not(96, 32, 4) is None and why_not(96, 16, 8) is None
    for shape, reason in [
        ((48, 48, 4), "48 is no multiple"),
        ((96, 16, 4), "not 16"),
        ((96, 64, 8), "64"),
        ((96, 32, 5), "not 5"),
    ]:
        assert reason in str(why_not(*shape))
    with pytest.raises(ValueError, match="cannot be packed: inputs come in groups of 32"):
        pack(drawn(16, 48, 16, 8))
    with pytest.raises(ValueError, match="not a finite number"):
        weight = drawn(16, 32, 32, 8)
        pack(weight._replace(scales=weight.scales / 0))
