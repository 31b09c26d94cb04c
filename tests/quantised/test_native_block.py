"""The halves of a block in C against the same reckoned by torch from the same quantised numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from native_products import compiled
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.native.block import ACTIVATIONS, NativeBlock, Norm
from shardnet.quantised.native.packing import pack
from shardnet.quantised.native.products import Native

HIDDEN, INNER, HEADS, KV_HEADS, SIZE = 96, 160, 3, 1, 32
EPS = 1e-5


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return compiled(tmp_path_factory)


@pytest.fixture
def weights() -> dict[str, Grouped]:
    torch.manual_seed(0)
    shapes = {
        "qkv": ((HEADS + 2 * KV_HEADS) * SIZE, HIDDEN),
        "out": (HIDDEN, HEADS * SIZE),
        "gate_up": (2 * INNER, HIDDEN),
        "down": (HIDDEN, INNER),
    }
    return {name: drawn(*shape, 4 if name != "down" else 8) for name, shape in shapes.items()}


def drawn(num_outputs: int, num_inputs: int, bits: int) -> Grouped:
    codes = torch.randint(0, 2**bits, (num_outputs, num_inputs), dtype=torch.uint8)
    scales = (torch.rand(num_outputs, num_inputs // 32) / 2**bits).half().float()
    return Grouped(codes, scales, -scales * 2 ** (bits - 1), bits)


def block_of(
    native: Native, weights: dict[str, Grouped], activation: str = "silu", has_biases: bool = False
) -> NativeBlock:
    biases = {name: torch.randn(len(weights[name].codes)) if has_biases else None for name in weights}
    return NativeBlock(
        native,
        *(pack(weights[name]) for name in ("qkv", "out", "gate_up", "down")),
        Norm(torch.rand(HIDDEN) + 0.5, EPS),
        Norm(torch.rand(HIDDEN) + 0.5, EPS),
        SIZE,
        HEADS + KV_HEADS,
        ACTIVATIONS[activation],
        *(biases[name] for name in ("qkv", "out", "gate_up", "down")),
    )


def tables(num_rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine as `RotaryTables.signed_at` gives them."""
    angles = torch.rand(num_rows, 1, SIZE // 2) * 6
    sin = angles.sin()
    return torch.cat((angles.cos(), angles.cos()), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def product(rows: Tensor, weight: Grouped, bias: Tensor | None) -> Tensor:
    """With rows that are rounded as the products round them; float64."""
    groups = rows.float().unflatten(1, (-1, 32))
    largest = groups.abs().amax(2, keepdim=True)
    codes = (groups * (torch.full_like(largest, 127) / largest)).round().nan_to_num_(0)
    rounded = (codes.double() * (largest / 127)).flatten(1)
    outputs = rounded @ weight.floats().double().T
    return outputs if bias is None else outputs + bias


def normalised(rows: Tensor, norm: Norm) -> Tensor:
    return rows * torch.rsqrt(rows.pow(2).mean(1, keepdim=True) + norm.eps) * norm.weight


def assert_near(out: Tensor, want: Tensor) -> None:
    """A number between two codes may become either: a step of one input."""
    assert bool(((out.double() - want).abs() <= 0.004 * want.abs().amax()).all())


@pytest.mark.parametrize("has_biases", [False, True])
def test_before_attention(native: Native, weights: dict[str, Grouped], has_biases: bool) -> None:
    block = block_of(native, weights, has_biases=has_biases)
    hidden, (cos, sin) = torch.randn(5, HIDDEN), tables(5, torch.float32)
    out = block.before(hidden, cos, sin)
    want = product(normalised(hidden.double(), block.before_attention), weights["qkv"], block.qkv_bias)
    heads = want.view(5, -1, SIZE)
    turned = heads[:, : block.num_turned]
    turned = turned * cos + turned.roll(SIZE // 2, -1) * sin
    assert_near(out, torch.cat((turned, heads[:, block.num_turned :]), 1))
    plain = replace(block, num_turned=0).before(hidden, cos, sin)
    assert_near(plain, heads)


@pytest.mark.parametrize("has_biases", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_behind_attention(native: Native, weights: dict[str, Grouped], has_biases: bool, activation: str) -> None:
    block = block_of(native, weights, activation, has_biases)
    hidden, seen = torch.randn(5, HIDDEN), torch.randn(5, HEADS * SIZE)
    out = block.behind(hidden, seen)
    middle = product(seen, weights["out"], block.out_bias) + hidden
    gate, up = product(normalised(middle, block.before_mlp), weights["gate_up"], block.gate_up_bias).chunk(2, 1)
    active = F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")
    assert_near(out, product(active * up, weights["down"], block.down_bias) + middle)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_at_the_ends_alone(
    native: Native, weights: dict[str, Grouped], dtype: torch.dtype
) -> None:
    block = block_of(native, weights)
    hidden, seen = torch.randn(4, HIDDEN).to(dtype), torch.randn(4, HEADS * SIZE).to(dtype)
    cos, sin = tables(4, dtype)
    wide = block.before(hidden.float(), cos.float(), sin.float())
    assert block.before(hidden, cos, sin).equal(wide.to(dtype))
    assert block.behind(hidden, seen).equal(block.behind(hidden.float(), seen.float()).to(dtype))


def test_a_row_does_not_depend_on_those_beside_it(native: Native, weights: dict[str, Grouped]) -> None:
    block = block_of(native, weights)
    hidden, seen, (cos, sin) = torch.randn(150, HIDDEN), torch.randn(150, 2 * HEADS * SIZE), tables(150, torch.float32)
    seen = seen[:, : HEADS * SIZE]
    hidden[70, 3] = float("nan")
    before, behind = block.before(hidden, cos, sin), block.behind(hidden, seen)
    for first, num in [(0, 1), (1, 2), (3, 7), (60, 8), (71, 1), (72, 70)]:
        rows = slice(first, first + num)
        assert block.before(hidden[rows], cos[rows], sin[rows]).equal(before[rows])
        assert block.behind(hidden[rows], seen[rows]).equal(behind[rows])
    assert bool(before[70].isnan().all() and behind[70].isnan().all())
    assert not bool(before[[69, 71]].isnan().any() or behind[[69, 71]].isnan().any())


def test_gates_far_from_zero(native: Native, weights: dict[str, Grouped]) -> None:
    """Where exp would be infinite."""
    block = block_of(native, weights)
    for size in (1e-20, 1e4):
        bias = torch.tensor([-1.0, 1.0]).repeat(INNER) * size
        biased = replace(block, gate_up_bias=bias)
        assert bool(biased.behind(torch.randn(2, HIDDEN), torch.randn(2, HEADS * SIZE)).isfinite().all())


def test_what_is_refused(native: Native, weights: dict[str, Grouped]) -> None:
    block = block_of(native, weights)
    hidden, (cos, sin) = torch.randn(5, HIDDEN), tables(5, torch.float32)
    with pytest.raises(ValueError, match=r"hidden must be \[rows, 96\]"):
        block.before(hidden[:, 1:], cos, sin)
    with pytest.raises(ValueError, match=r"cos must be torch\.float32 \[5, 1, 32\]"):
        block.before(hidden, cos[1:], sin)
    with pytest.raises(ValueError, match=r"sin must be torch\.float32"):
        block.before(hidden, cos, sin.bfloat16())
    with pytest.raises(ValueError, match="seen must be 5 rows"):
        block.behind(hidden, torch.randn(4, HEADS * SIZE))
    with pytest.raises(AssertionError, match="not of one block"):
        replace(block, down=block.out)
    with pytest.raises(AssertionError, match="float32, side by side"):
        replace(block, out_bias=torch.zeros(HIDDEN).bfloat16())
    assert block.before(hidden[:0], cos[:0], sin[:0]).shape == (0, 5, SIZE)
    assert block.behind(hidden[:0], hidden[:0]).shape == (0, HIDDEN)
