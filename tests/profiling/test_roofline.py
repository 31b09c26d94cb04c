from __future__ import annotations

import math
import random

import pytest

from shardnet.described.model_sizes import ModelConfig, unit_works
from shardnet.profiling.roofline import Roofline, TimedWork, decode_work, fit_roofline, prefill_work

TRUTH = Roofline(read_bytes_per_s=9e9, flops_per_s=120e9, overhead_s=4e-4)
SMALL = ModelConfig("small", "llama", hidden=576, blocks=2, heads=9, kv_heads=3, intermediate=1536, vocab=49152,
                    context_tokens=2048)  # fmt: skip


def steps_of(truth: Roofline, noise: float = 0.0, seed: int = 0) -> list[TimedWork]:
    rng = random.Random(seed)
    steps = []
    for unit in unit_works(SMALL, "bfloat16")[1:]:
        works = [decode_work(unit, sessions, cached) for sessions in (1, 4, 8) for cached in (64, 512, 2048)]
        works += [prefill_work(unit, tokens, 0) for tokens in (16, 64, 128, 256)]
        steps += [TimedWork(*work, truth.seconds(*work) * math.exp(rng.gauss(0, noise))) for work in works]
    return steps


def test_the_truth_is_found_again() -> None:
    fitted = fit_roofline(steps_of(TRUTH))
    assert fitted.read_bytes_per_s == pytest.approx(TRUTH.read_bytes_per_s, rel=1e-6)
    assert fitted.flops_per_s == pytest.approx(TRUTH.flops_per_s, rel=1e-6)
    assert fitted.overhead_s == pytest.approx(TRUTH.overhead_s, rel=1e-6)
    assert fitted.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_a_tenth_leaves_the_roofs_within_a_fifth(seed: int) -> None:
    fitted = fit_roofline(steps_of(TRUTH, noise=0.1, seed=seed))
    assert fitted.read_bytes_per_s == pytest.approx(TRUTH.read_bytes_per_s, rel=0.2)
    assert fitted.flops_per_s == pytest.approx(TRUTH.flops_per_s, rel=0.2)
    assert fitted.error < 0.2


def test_a_roof_that_no_step_hits_is_bounded_from_below() -> None:
    steps = [TimedWork(1e8, 1e8, 0.01), TimedWork(2e8, 2e8, 0.02), TimedWork(4e8, 4e8, 0.04)]
    fitted = fit_roofline(steps)
    assert fitted.error == pytest.approx(0, abs=1e-6)
    assert fitted.seconds(1e8, 1e8) == pytest.approx(0.01)
    assert fitted.read_bytes_per_s >= 1e10 * (1 - 1e-9) and fitted.flops_per_s >= 1e10 * (1 - 1e-9)


def test_one_step_is_enough_and_impossible_ones_are_refused() -> None:
    assert fit_roofline([TimedWork(1e8, 1e6, 0.01)]).seconds(1e8, 1e6) == pytest.approx(0.01)
    for steps in ([], [TimedWork(1.0, 1.0, 0.0)], [TimedWork(0.0, 1.0, 1.0)]):
        with pytest.raises(ValueError, match="roofline"):
            fit_roofline(steps)


def test_a_chunk_reads_weights_once_and_the_head_sees_one_token() -> None:
    _, block, _, head = unit_works(SMALL, "bfloat16")
    assert prefill_work(block, 64, 0)[0] < 1.2 * decode_work(block, 1, 0)[0]
    assert prefill_work(block, 64, 0)[1] > 60 * decode_work(block, 1, 0)[1]
    assert prefill_work(head, 64, 0) == decode_work(head, 1, 0)


def test_decode_of_a_large_model_is_its_bytes_over_the_bandwidth() -> None:
    unit = unit_works(ModelConfig("l", "llama", 8192, 80, 64, 28672, 32000, 4096, kv_heads=8), "float16")[1]
    seconds = TRUTH.decode_s(unit, num_sessions=1, context_tokens=0)
    assert seconds == pytest.approx(unit.weight_bytes / 9e9 + 4e-4)
    assert TRUTH.prefill_s_per_token(unit, chunk_tokens=128) < seconds / 5
