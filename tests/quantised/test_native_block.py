"""Blocks in C against the same reckoned by torch from the same quantised numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kv_rows import decode, encode
from shardnet.quantised.native.block import ACTIVATIONS, Biases, Heads, NativeBlock, NativeBlocks, Norm, Norms, Seen
from shardnet.quantised.native.packing import pack
from shardnet.quantised.native.products import Native

HIDDEN, INNER = 96, 160
EPS = 1e-5
KINDS = [torch.float32, torch.bfloat16, torch.float16]


def drawn(num_outputs: int, num_inputs: int, bits: int) -> Grouped:
    codes = torch.randint(0, 2**bits, (num_outputs, num_inputs), dtype=torch.uint8)
    scales = (torch.rand(num_outputs, num_inputs // 32) / 2**bits).half().float()
    return Grouped(codes, scales, -scales * 2 ** (bits - 1), bits)


class Drawn:
    """A block, and the same reckoned by torch in float64."""

    def __init__(
        self, heads: Heads, activation: str = "silu", *, has_biases: bool = False, has_more_norms: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.heads, self.activation = heads, activation
        num_heads, num_kv_heads, d = heads[:3]
        shapes = [((num_heads + 2 * num_kv_heads) * d, HIDDEN), (HIDDEN, num_heads * d)]
        shapes += [(2 * INNER, HIDDEN), (HIDDEN, INNER)]
        self.weights = [drawn(*shape, bits) for shape, bits in zip(shapes, (4, 4, 4, 8), strict=True)]
        self.norms = Norms(*(Norm(torch.rand(HIDDEN) + 0.5, EPS) for _ in range(2)))
        if has_more_norms:
            sizes = HIDDEN, HIDDEN, d, d
            self.norms = Norms(*self.norms[:2], *(Norm(torch.rand(size) + 0.5, EPS) for size in sizes))
        self.biases = Biases(*(torch.randn(len(weight.codes)) for weight in self.weights)) if has_biases else Biases()
        packed = [pack(weight) for weight in self.weights]
        self.block = NativeBlock(*packed, heads, ACTIVATIONS[activation], self.norms, self.biases)

    def kv(self, num_rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        shape = num_rows, self.heads.num_kv_heads, self.heads.head_size
        return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)

    def wanted(
        self,
        hidden: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        keys: Tensor,
        values: Tensor,
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Of one session's rows [t, H] behind keys and values [n, K, d]; `kept` are those of the rows themselves."""
        num_heads, num_kv_heads, d = self.heads[:3]
        rows = hidden.double()
        qkv = self._product(normalised(rows, self.norms.before_attention), 0).view(len(rows), -1, d)
        queries, new_keys, new_values = qkv.split((num_heads, num_kv_heads, num_kv_heads), 1)
        if self.norms.query is not None and self.norms.key is not None:
            queries, new_keys = normalised(queries, self.norms.query), normalised(new_keys, self.norms.key)
        if angles is not None:
            queries, new_keys = turned(queries, angles), turned(new_keys, angles)
        if kept is not None:
            new_keys, new_values = (each.double() for each in kept)
        seen = self._seen(queries, torch.cat((keys.double(), new_keys)), torch.cat((values.double(), new_values)))
        middle = self._product(seen.flatten(1), 1)
        if self.norms.behind_attention is not None:
            middle = normalised(middle, self.norms.behind_attention)
        middle = middle + rows
        gate, up = self._product(normalised(middle, self.norms.before_mlp), 2).chunk(2, 1)
        active = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        down = self._product(active * up, 3)
        if self.norms.behind_mlp is not None:
            down = normalised(down, self.norms.behind_mlp)
        return down + middle

    def _seen(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        group = self.heads.num_heads // self.heads.num_kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = torch.einsum("thd,nhd->htn", queries, keys) * self.heads.scaling
        if self.heads.softcap is not None:
            scores = torch.tanh(scores / self.heads.softcap) * self.heads.softcap
        behind = torch.arange(len(keys) - len(queries), len(keys))[:, None] - torch.arange(len(keys))
        is_seen = (behind >= 0) & (behind < (self.heads.window or len(keys)))
        weights = scores.masked_fill(~is_seen, float("-inf")).softmax(-1)
        return torch.einsum("htn,nhd->thd", weights, values)

    def _product(self, rows: Tensor, index: int) -> Tensor:
        """With rows that are rounded as the products round them; float64."""
        groups = rows.float().unflatten(1, (-1, 32))
        largest = groups.abs().amax(2, keepdim=True)
        codes = (groups * (torch.full_like(largest, 127) / largest)).round().nan_to_num_(0)
        rounded = (codes.double() * (largest / 127)).flatten(1)
        outputs = rounded @ self.weights[index].floats().double().T
        bias = self.biases[index]
        return outputs if bias is None else outputs + bias


def normalised(rows: Tensor, norm: Norm) -> Tensor:
    return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight


def turned(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    return heads * angles[0] + heads.roll(heads.shape[-1] // 2, -1) * angles[1]


def angles_of(num_rows: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `RotaryTables.signed_at` gives them."""
    angles = torch.rand(num_rows, 1, d // 2) * 6
    sin = angles.sin()
    return torch.cat((angles.cos(), angles.cos()), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


class Store:
    """Keys and values of one session, in runs with gaps of NaN between them."""

    def __init__(
        self, keys: Tensor, values: Tensor, num_new: int, cuts: Sequence[int] = (), filler: float = float("nan")
    ) -> None:
        ends = [*cuts, len(keys) + num_new]
        firsts = [0, *cuts]
        self.sizes = [end - first for first, end in zip(firsts, ends, strict=True)]
        self.keys, self.values = (
            torch.full((sum(self.sizes) + len(self.sizes), *keys.shape[1:]), filler, dtype=keys.dtype) for _ in range(2)
        )
        for first, end, place in zip(firsts, ends, self.places, strict=True):
            rows = slice(place, place + min(end, len(keys)) - first)
            if first < len(keys):
                self.keys[rows], self.values[rows] = keys[first:end], values[first:end]

    @property
    def places(self) -> list[int]:
        return [sum(self.sizes[:index]) + index for index in range(len(self.sizes))]

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        return [
            (self.keys[place].data_ptr(), self.values[place].data_ptr(), size)
            for place, size in zip(self.places, self.sizes, strict=True)
        ]


def assert_near(out: Tensor, want: Tensor, part: float = 0.004) -> None:
    """A number between two codes may become either: a step of one input."""
    worst = (out.double() - want).abs().amax() / want.abs().amax()
    assert worst <= part, worst


HEADS = [
    Heads(3, 1, 32, 32**-0.5),
    Heads(9, 3, 64, 0.125),
    Heads(4, 4, 80, 0.1),
    Heads(8, 1, 128, 0.09),
    Heads(4, 2, 96, 0.1, softcap=2.0),
    Heads(2, 1, 16, 0.25, window=70),
    Heads(6, 2, 16, 0.2, softcap=1.0, window=1),
]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("heads", HEADS)
def test_a_block_is_what_torch_reckons(native: Native, heads: Heads, dtype: torch.dtype) -> None:
    """Of three sessions in one step: prompt, single token, and a chunk behind many tokens, which lie in pieces."""
    one = Drawn(heads, has_biases=True)
    cases = [(0, 70, ()), (130, 1, (64,)), (200, 33, (1, 77, 210))]
    hidden = torch.randn(sum(num for _, num, _ in cases), HIDDEN).to(dtype)
    angles = angles_of(len(hidden), heads.head_size, dtype)
    own = [one.kv(length, dtype) for length, _, _ in cases]
    stores = [Store(*kv, num, cuts) for kv, (_, num, cuts) in zip(own, cases, strict=True)]
    sessions = [(num, length) for length, num, _ in cases]
    before = hidden.clone()
    out = NativeBlocks(native, [one.block]).run(hidden, sessions, [Seen(angles, [store.runs for store in stores])])
    assert hidden.equal(before)
    first = 0
    for kv, (_, num, _) in zip(own, cases, strict=True):
        rows = slice(first, first + num)
        want = one.wanted(hidden[rows], (angles[0][rows].double(), angles[1][rows].double()), *kv)
        assert_near(out[rows], want, 0.02 if dtype == torch.float32 else 0.03)
        first += num


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("has_more_norms", [False, True])
def test_norms_and_activations(native: Native, activation: str, has_more_norms: bool) -> None:
    one = Drawn(HEADS[0], activation, has_more_norms=has_more_norms)
    hidden, kv = torch.randn(5, HIDDEN), one.kv(9, torch.float32)
    for angles in (None, angles_of(5, 32, torch.float32)):
        store = Store(*kv, 5)
        seen = Seen(angles, [store.runs])
        out = NativeBlocks(native, [one.block]).run(hidden, [(5, 9)], [seen])
        assert_near(out, one.wanted(hidden, angles, *kv), 0.008)


def test_blocks_follow_one_another_and_keep_what_is_new(native: Native) -> None:
    one, other = Drawn(HEADS[1]), Drawn(HEADS[0], "gelu_pytorch_tanh")
    hidden, angles = torch.randn(4, HIDDEN), [angles_of(4, d, torch.float32) for d in (64, 32)]
    own = [each.kv(66, torch.float32) for each in (one, other)]
    stores = [Store(*kv, 4, (65,)) for kv in own]
    seen = [Seen(each, [store.runs]) for each, store in zip(angles, stores, strict=True)]
    both = NativeBlocks(native, [one.block, other.block]).run(hidden, [(4, 66)], seen)
    assert not bool(stores[0].keys[66:71].isnan().any()) and bool(stores[0].keys[65].isnan().all())
    again = [Store(*kv, 4) for kv in own]
    first = NativeBlocks(native, [one.block]).run(hidden, [(4, 66)], [Seen(angles[0], [again[0].runs])])
    assert both.equal(NativeBlocks(native, [other.block]).run(first, [(4, 66)], [Seen(angles[1], [again[1].runs])]))
    assert again[0].keys[66:70].equal(stores[0].keys[67:71])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_row_does_not_depend_on_those_beside_it(native: Native, dtype: torch.dtype, num_threads: int) -> None:
    """Whether its session is alone, how its rows are cut into steps, and where keys and values lie."""
    one = Drawn(Heads(6, 2, 64, 0.125, window=140))
    blocks, number = NativeBlocks(native, [one.block]), torch.get_num_threads()
    rows, angles = torch.randn(230, HIDDEN).to(dtype), angles_of(230, 64, dtype)
    none = one.kv(0, dtype)

    def run(first: int, num: int, store: Store) -> Tensor:
        here = slice(first, first + num)
        turns = angles[0][here].contiguous(), angles[1][here].contiguous()
        other = Store(*one.kv(5, dtype), 2)
        both = torch.cat((torch.randn(2, HIDDEN).to(dtype), rows[here]))
        doubled = torch.cat((turns[0][:2], turns[0])), torch.cat((turns[1][:2], turns[1]))
        if num < 2 or first % 2:
            return blocks.run(rows[here], [(num, first)], [Seen(turns, [store.runs])])
        return blocks.run(both, [(2, 5), (num, first)], [Seen(doubled, [other.runs, store.runs])])[2:]

    torch.set_num_threads(num_threads)
    try:
        whole = run(0, 230, Store(*none, 230))
        pieces, first = [], 0
        store = Store(*none, 230, (3, 64, 129))
        for num in (1, 1, 60, 7, 64, 1, 3, 63, 30):
            pieces.append(run(first, num, store))
            first += num
    finally:
        torch.set_num_threads(number)
    assert torch.cat(pieces).equal(whole)


def test_a_session_that_is_not_a_number_stays_alone(native: Native) -> None:
    one = Drawn(HEADS[1])
    hidden, angles = torch.randn(150, HIDDEN), angles_of(150, 64, torch.float32)
    hidden[70, 3] = float("nan")
    stores = [Store(*one.kv(0, torch.float32), 50) for _ in range(3)]
    seen = Seen(angles, [store.runs for store in stores])
    out = NativeBlocks(native, [one.block]).run(hidden, [(50, 0)] * 3, [seen])
    assert bool(out[70:100].isnan().all())
    assert bool(out[:50].isfinite().all() and out[100:].isfinite().all())


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("is_rounded", [False, True])
@pytest.mark.parametrize("length", [0, 60, 130])
def test_what_is_no_number_is_not_seen_by_tokens_before_it(
    native: Native, dtype: torch.dtype, is_rounded: bool, length: int
) -> None:
    """A guess may be wrong, and overflow. Values that may not be seen were multiplied by 0, which left no number."""
    one = Drawn(Heads(6, 2, 16, 0.25))
    hidden, angles = torch.randn(9, HIDDEN).to(dtype), angles_of(9, 16, dtype)
    kv = one.kv(length, dtype)
    kept = (encode(kv[0]), encode(kv[1])) if is_rounded else kv

    def run(rows: Tensor) -> Tensor:
        store = Store(*kept, 9, filler=0)
        seen = Seen(angles, [store.runs])
        return NativeBlocks(native, [one.block]).run(rows, [(9, length)], [seen], is_rounded=is_rounded)

    odd = hidden.clone()
    odd[7, 3] = float("nan")
    found = run(odd)
    assert found[:7].equal(run(hidden)[:7])
    assert bool(found[7:].isnan().all())


@pytest.mark.parametrize("dtype", KINDS)
def test_keys_and_values_of_8_bits(native: Native, dtype: torch.dtype) -> None:
    """What is written is what torch would have written, and what is seen is what stands there."""
    one = Drawn(Heads(4, 2, 64, 0.125))
    hidden, (keys, values) = torch.randn(70, HIDDEN).to(dtype), one.kv(130, dtype)
    store = Store(encode(keys), encode(values), 70, (100,), filler=0)
    blocks = NativeBlocks(native, [one.block])
    out = blocks.run(hidden, [(70, 130)], [Seen(None, [store.runs])], is_rounded=True)
    plain = Store(keys, values, 70)
    blocks.run(hidden, [(70, 130)], [Seen(None, [plain.runs])])
    new = slice(131, 201)
    assert store.keys[new].equal(encode(plain.keys[130:200])) and store.values[new].equal(encode(plain.values[130:200]))
    own = [decode(encode(each), 64, torch.float32) for each in (plain.keys[:200], plain.values[:200])]
    floats = Store(own[0][:130], own[1][:130], 70)
    rounded_new = blocks.run(hidden.float(), [(70, 130)], [Seen(None, [floats.runs])])
    assert_near(out, rounded_new.double(), 0.03)
    hidden[69, 5] = float("inf")
    broken = blocks.run(hidden, [(70, 130)], [Seen(None, [store.runs])], is_rounded=True)
    assert bool(broken[69].isnan().all()) and broken[:60].equal(out[:60])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("heads", HEADS)
def test_8_bits_are_seen_as_the_numbers_that_they_stand_for(native: Native, heads: Heads, dtype: torch.dtype) -> None:
    """Of three sessions in one step, with windows, caps, heads of many sizes, and heads that are far from zero."""
    one, cases = Drawn(heads), [(0, 70, ()), (130, 1, (64,)), (200, 33, (1, 77, 210))]
    hidden, sessions = torch.randn(104, HIDDEN).to(dtype), [(num, length) for length, num, _ in cases]
    own = [one.kv(length, dtype) for length, _, _ in cases]
    own = [(keys + 3 * torch.randn(keys.shape[1], 1).to(dtype), values - 2) for keys, values in own]
    blocks = NativeBlocks(native, [one.block])
    rounded = [
        Store(*(encode(each) for each in kv), num, cuts, filler=0)
        for kv, (_, num, cuts) in zip(own, cases, strict=True)
    ]
    out = blocks.run(hidden, sessions, [Seen(None, [each.runs for each in rounded])], is_rounded=True)
    first = 0
    for store, (length, num, _) in zip(rounded, cases, strict=True):
        places = [place + row for place, size in zip(store.places, store.sizes, strict=True) for row in range(size)]
        numbers = [decode(each[places], heads.head_size, torch.float32) for each in (store.keys, store.values)]
        keys, values = numbers
        kept = keys[length:], values[length:]
        want = one.wanted(hidden[first : first + num], None, keys[:length], values[:length], kept)
        assert_near(out[first : first + num], want, 0.02 if dtype == torch.float32 else 0.03)
        first += num


@pytest.mark.parametrize("dtype", KINDS)
def test_a_row_of_8_bits_does_not_depend_on_those_beside_it(native: Native, dtype: torch.dtype) -> None:
    one = Drawn(Heads(6, 2, 64, 0.125, window=140))
    blocks, rows = NativeBlocks(native, [one.block]), torch.randn(230, HIDDEN).to(dtype)
    none = [torch.empty(0, 2, 68, dtype=torch.int8)] * 2
    store, in_pieces = Store(*none, 230, filler=0), Store(*none, 230, (3, 64, 129), filler=0)
    whole = blocks.run(rows, [(230, 0)], [Seen(None, [store.runs])], is_rounded=True)
    pieces, first = [], 0
    for num in (1, 1, 60, 7, 64, 1, 3, 63, 30):
        here = rows[first : first + num]
        pieces.append(blocks.run(here, [(num, first)], [Seen(None, [in_pieces.runs])], is_rounded=True))
        first += num
    assert torch.cat(pieces).equal(whole)


def test_gates_far_from_zero(native: Native) -> None:
    """Where exp would be infinite."""
    one = Drawn(HEADS[0])
    for size in (1e-20, 1e4):
        biased = replace(one.block, biases=Biases(gate_up=torch.tensor([-1.0, 1.0]).repeat(INNER) * size))
        store = Store(*one.kv(0, torch.float32), 2)
        out = NativeBlocks(native, [biased]).run(torch.randn(2, HIDDEN), [(2, 0)], [Seen(None, [store.runs])])
        assert bool(out.isfinite().all())


@pytest.mark.parametrize("dtype", KINDS)
def test_scores_far_from_zero(native: Native, dtype: torch.dtype) -> None:
    """One key takes all the weight, and it comes last, or first."""
    one = Drawn(Heads(3, 1, 32, 1000.0))
    hidden, (keys, values) = torch.randn(2, HIDDEN).to(dtype), one.kv(190, dtype)
    for order in (torch.arange(190), torch.arange(189, -1, -1)):
        store = Store(keys[order], values[order], 2)
        out = NativeBlocks(native, [one.block]).run(hidden, [(2, 190)], [Seen(None, [store.runs])])
        assert bool(out.isfinite().all())


def test_what_is_refused(native: Native) -> None:
    one = Drawn(HEADS[0])
    blocks, hidden, angles = NativeBlocks(native, [one.block]), torch.randn(5, HIDDEN), angles_of(5, 32, torch.float32)
    store = Store(*one.kv(0, torch.float32), 5)
    runs = [store.runs]
    with pytest.raises(ValueError, match=r"hidden must be \[rows, 96\]"):
        blocks.run(hidden[:, 1:], [(5, 0)], [Seen(angles, runs)])
    with pytest.raises(ValueError, match="hidden has 5 rows"):
        blocks.run(hidden, [(4, 0)], [Seen(angles, runs)])
    with pytest.raises(ValueError, match=r"cos must be torch\.float32 \[5, 1, 32\]"):
        blocks.run(hidden, [(5, 0)], [Seen((angles[0][1:], angles[1]), runs)])
    with pytest.raises(ValueError, match=r"sin must be torch\.float32"):
        blocks.run(hidden, [(5, 0)], [Seen((angles[0], angles[1].bfloat16()), runs)])
    with pytest.raises(ValueError, match="no room for 6 tokens"):
        blocks.run(hidden, [(5, 1)], [Seen(angles, runs)])
    with pytest.raises(AssertionError, match="not of one block"):
        replace(one.block, down=one.block.out)
    with pytest.raises(AssertionError, match="not of these heads"):
        replace(one.block, heads=HEADS[1])
    with pytest.raises(AssertionError, match="float32, side by side"):
        replace(one.block, biases=Biases(out=torch.zeros(HIDDEN).bfloat16()))
    assert blocks.run(hidden[:0], [], [Seen(None, [])]).shape == (0, HIDDEN)
