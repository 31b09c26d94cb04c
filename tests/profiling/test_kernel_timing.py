"""Which kernel holds a matrix, by what was timed; and the timing, with real kernels."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence

import pytest
import torch
from compiled import needs_compiler
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import SIZES
from transformers import LlamaConfig

from shardnet.models.kv import ON_CPU
from shardnet.models.plain_config import PlainConfig, as_text, from_text
from shardnet.plan import KernelOrder
from shardnet.profiling import reuse
from shardnet.profiling.kernel_timing import ROWS, WORTH_IT, KernelTiming, lines_of, orders_of, rows_of
from shardnet.profiling.kernel_trials import are_the_same, left_to_torch, matrices_of, time_kernels
from shardnet.profiling.measurement import DeviceMeasurement
from shardnet.profiling.profiler import measure_device
from shardnet.profiling.random_shard import group_units
from shardnet.profiling.reuse import measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.profiling.timing import Clock
from shardnet.progress import silent
from shardnet.quantised.kernels.choosing import suiting
from shardnet.quantised.kernels.kernel import Shape
from shardnet.quantised.schemes import BYTES, INT4, NIBBLES


def plain(config: LlamaConfig) -> PlainConfig:
    return from_text(as_text(config))


TINY = plain(LlamaConfig(**{**SIZES, "hidden_size": 64, "max_position_embeddings": 600}))
SECONDS = st.floats(1e-6, 1e-1)


def timing(kernel: str, seconds: Sequence[float], num_bytes: float = 1000) -> KernelTiming:
    return KernelTiming(kernel, 4, 32, False, 64, 64, num_bytes, tuple(seconds))


def test_the_fastest_is_chosen_and_memory_counts_as_time_does() -> None:
    slow, fast = timing("slow", [4.0] * 4), timing("fast", [2.0] * 4)
    assert orders_of([slow, fast]) == (KernelOrder(4, 32, False, 64, 64, ("fast", "slow")),)
    assert orders_of([slow, dataclasses.replace(fast, num_bytes=3000)])[0].kernels == ("slow", "fast")


def test_who_comes_first_stays_unless_another_is_worth_it() -> None:
    """A block in C needs all its matrices there, and times are never exact."""
    first, other = timing("native", [1.0] * 4), timing("int4pack", [1.01 / WORTH_IT] * 4)
    assert orders_of([first, other])[0].kernels[0] == "native"
    assert orders_of([first, timing("int4pack", [0.99 / WORTH_IT] * 4)])[0].kernels[0] == "int4pack"


def test_one_token_counts_more_than_prompts() -> None:
    decodes, prompts = timing("decodes", [1, 2, 2, 2]), timing("prompts", [2, 2, 2, 1])
    assert orders_of([prompts, decodes])[0].kernels[0] == "decodes"


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS), min_size=1, max_size=5))
def test_the_chosen_one_is_never_far_from_the_best(times: list[tuple[float, ...]]) -> None:
    timings = [timing(f"k{index}", each) for index, each in enumerate(times)]
    [order] = orders_of(timings)
    assert sorted(order.kernels) == [each.kernel for each in timings]
    cost = {each.kernel: each.cost for each in timings}
    assert cost[order.kernels[0]] <= min(cost.values()) * WORTH_IT * (1 + 1e-9)
    rest = [cost[name] for name in order.kernels[1:]]
    assert rest == sorted(rest)
    assert sum(row["chosen"] for row in rows_of(timings)) == 1
    assert len(lines_of(timings)) == 1 + len(timings)


def clock(seconds: float) -> Clock:
    return Clock("timing", time.perf_counter(), seconds, silent)


def test_every_kernel_that_suits_is_timed_with_few_rows_and_many() -> None:
    shape = Shape(NIBBLES, 192, 256)
    timings = time_kernels([shape], torch.bfloat16, 2**26, clock(1.0), 1.0)
    assert [each.kernel for each in timings] == [each.name for each in suiting(shape, torch.bfloat16, ON_CPU)]
    assert all(len(each.seconds) == len(ROWS) and each.seconds[0] < each.seconds[-1] for each in timings)
    assert are_the_same(orders_of(timings), torch.bfloat16)
    lacks_one = KernelOrder(*NIBBLES.layout, 192, 256, ("another", *orders_of(timings)[0].kernels))
    assert not are_the_same([lacks_one], torch.bfloat16)


def test_no_time_and_no_choice_are_no_timings() -> None:
    assert time_kernels([Shape(NIBBLES, 192, 256)], torch.bfloat16, 2**26, clock(0.0), 1.0) == ()
    assert time_kernels([Shape(NIBBLES, 192, 256)], torch.float32, 2**26, clock(1.0), 1.0) == ()
    assert lines_of(()) == []


def test_times_of_a_large_matrix_are_in_proportion_to_the_outputs_that_were_tried() -> None:
    large, some = Shape(BYTES, 40_000, 256), Shape(BYTES, 8192, 256)
    by_kernel = {each.kernel: each for each in time_kernels([large], torch.bfloat16, 2**26, clock(2.0), 1.0)}
    least = {each.kernel: each for each in time_kernels([some], torch.bfloat16, 2**26, clock(2.0), 1.0)}
    for kernel, each in by_kernel.items():
        assert each.num_outputs == 40_000 and each.num_bytes > 40_000 * 256
        assert each.seconds[0] > least[kernel].seconds[0]


def test_a_model_s_matrices_are_those_that_its_shards_hold() -> None:
    groups = group_units(TINY, torch.bfloat16, INT4)
    found = matrices_of(groups, torch.bfloat16, INT4, ON_CPU)
    assert Shape(NIBBLES, 128, 64) in found, "queries, keys and values together"
    assert Shape(BYTES, 97, 64) in found, "the head"
    assert matrices_of(groups, torch.bfloat16, "bfloat16", ON_CPU) == []


def test_a_profile_says_what_multiplies_and_goes_by_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measure_device(TINY, "tiny", "bfloat16", weights=INT4, device="here", max_seconds=3, num_threads=1)
    assert measured.kernels
    assert DeviceMeasurement.from_dict(json.loads(json.dumps(measured.as_dict()))) == measured
    assert measured.to_profile().kernels == orders_of(measured.kernels)

    store = ProfileStore(tmp_path)

    def profile() -> reuse.Profiled:
        how = {"device": "here", "num_threads": 1, "max_seconds": 2}
        return measure_or_reuse(TINY, "bfloat16", store, weights=INT4, **how)  # type: ignore[arg-type]

    assert profile().made_because
    assert not profile().made_because
    monkeypatch.setattr(reuse, "are_the_same", lambda orders, dtype: False)
    assert profile().made_because == "other kernels multiply by weights of few bits here now"


@needs_compiler
@pytest.mark.parametrize(
    ("change", "dtype", "weights", "orders", "why"),
    [
        ({}, "bfloat16", INT4, (), None),
        ({}, "float32", "w8a8", (), None),
        ({}, "float32", INT4, (), "plain holds q_proj, k_proj and v_proj"),
        ({}, "bfloat16", INT4, [(128, 64)], "plain holds q_proj, k_proj and v_proj"),
        ({}, "bfloat16", INT4, [(192, 64)], "plain holds gate_proj and up_proj"),
        ({"intermediate_size": 40}, "bfloat16", INT4, (), "down_proj stays in floats, or is not one matrix"),
        ({"hidden_act": "gelu"}, "bfloat16", INT4, (), "their activation is none of silu, swish, gelu_pytorch_tanh"),
    ],
)
def test_blocks_that_c_does_not_run_are_told_with_why(
    change: dict[str, object], dtype: str, weights: str, orders: Sequence[tuple[int, int]], why: str | None
) -> None:
    """They went the slower way, and nothing said so."""
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16} | change
    others = [KernelOrder(4, 32, False, *size, ("plain", "native")) for size in orders]
    found = left_to_torch(plain(LlamaConfig(**sizes)), dtype, weights, others)
    assert found == ({} if why is None else {why: 3})
