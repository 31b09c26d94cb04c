from __future__ import annotations

import json

import pytest

from shardnet.described.model_sizes import ModelConfig, unit_works
from shardnet.plan import Link
from shardnet.profiling.hardware import Hardware
from shardnet.profiling.measurement import DeviceMeasurement, LinkMeasurement, StepTiming, ThreadTrial, UnitMeasurement
from shardnet.profiling.power import PowerState
from shardnet.profiling.roofline import Roofline, decode_work, prefill_work

MODEL = ModelConfig("small", "llama", hidden=576, blocks=3, heads=9, kv_heads=3, intermediate=1536, vocab=49152,
                    context_tokens=2048)  # fmt: skip
TRUTH = Roofline(9e9, 120e9, 4e-4)


@pytest.fixture
def measurement() -> DeviceMeasurement:
    works = unit_works(MODEL, "bfloat16")
    units = []
    for work, indices in ((works[0], (0,)), (works[1], (1, 2, 3)), (works[4], (4,))):
        decode = [(sessions, cached) for sessions in (1, 4) for cached in (64, 512)]
        steps = [StepTiming(s, 1, c, TRUTH.seconds(*decode_work(work, s, c)), 5) for s, c in decode]
        steps += [StepTiming(1, n, 0, TRUTH.seconds(*prefill_work(work, n, 0))) for n in (16, 64, 256)]
        units.append(UnitMeasurement(work, indices, tuple(steps)))
    return DeviceMeasurement(
        device="pixel",
        model="small",
        dtype="bfloat16",
        hardware=Hardware("aarch64", "Tensor", 8, (1, 2), 8 * 2**30, True),
        versions={"torch": "2.13.0"},
        measured_at_s=1e9,
        took_s=12.5,
        memory_bytes=2 * 2**30,
        num_threads=4,
        trials=(ThreadTrial(4, 0.001, 0.002, 0.01),),
        units=tuple(units),
        power_before=PowerState(80.0, False, 30.0, 2.5, 35.0),
        active_w=3.5,
    )


def test_json_and_back(measurement: DeviceMeasurement) -> None:
    assert DeviceMeasurement.from_dict(json.loads(json.dumps(measurement.as_dict()))) == measurement


def test_the_profile_names_every_unit(measurement: DeviceMeasurement) -> None:
    profile = measurement.to_profile(num_sessions=1, context_tokens=512, chunk_tokens=64)
    assert (profile.name, profile.memory_bytes, profile.num_threads, profile.active_w) == ("pixel", 2**31, 4, 3.5)
    assert not profile.is_estimated
    block = unit_works(MODEL, "bfloat16")[1]
    expected = TRUTH.decode_s(block, num_sessions=1, context_tokens=512)
    assert profile.decode_unit_s[1:4] == pytest.approx((expected,) * 3)
    assert profile.prefill_unit_s_per_token[2] == pytest.approx(TRUTH.prefill_s_per_token(block, chunk_tokens=64))
    assert measurement.to_profile("other").name == "other"


@pytest.mark.parametrize(("sessions", "cached"), [(1, 64), (1, 300), (2, 64), (3, 200), (4, 2000), (8, 512), (1, 0)])
def test_what_was_not_measured_lies_between(measurement: DeviceMeasurement, sessions: int, cached: int) -> None:
    block = measurement.units[1]
    exact = TRUTH.decode_s(block.work, num_sessions=sessions, context_tokens=cached)
    assert block.decode_s(sessions, cached) == pytest.approx(exact, rel=0.05)


def test_beyond_the_last_step_times_never_fall() -> None:
    work = unit_works(MODEL, "bfloat16")[1]
    chunk = StepTiming(1, 16, 0, 0.01)
    noisy = UnitMeasurement(work, (1,), (StepTiming(1, 1, 64, 0.003), StepTiming(1, 1, 512, 0.002), chunk))
    assert noisy.decode_s(1, 100_000) == 0.002
    assert noisy.decode_s(16, 64) == 0.003


def test_another_model_is_estimated_and_marked(measurement: DeviceMeasurement) -> None:
    works = unit_works(ModelConfig("7b", "llama", 4096, 32, 32, 11008, 32000, 4096), "bfloat16")
    profile = measurement.estimate_profile(works)
    assert profile.is_estimated
    assert len(profile.decode_unit_s) == 34
    exact = TRUTH.decode_s(works[1], context_tokens=512)
    assert profile.decode_unit_s[1] == pytest.approx(exact, rel=0.02)
    assert profile.memory_bytes == measurement.memory_bytes


def test_a_link_has_two_directions() -> None:
    link = LinkMeasurement("a", "b", 0.002, 0.01, 1e6, 2e6, 0.0025, 0.003, 0.1, 0.05)
    assert link.to_profiles() == (Link("a", "b", 0.0025, 1e6), Link("b", "a", 0.0025, 2e6))
    assert LinkMeasurement(**json.loads(json.dumps(link.as_dict()))) == link
