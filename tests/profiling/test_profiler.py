from __future__ import annotations

import dataclasses
import errno
import json
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_models import SIZES
from transformers import LlamaConfig

from shardnet.errors import BadRequest, DoesNotFit, UsageError
from shardnet.profiling import profiler, reuse
from shardnet.profiling.compute import device_kind
from shardnet.profiling.measurement import DeviceMeasurement, LinkMeasurement
from shardnet.profiling.profiler import measure_device
from shardnet.profiling.reuse import measure_or_reuse
from shardnet.profiling.store import ProfileStore, configuration_key
from shardnet.quantised.kv_names import KV_DTYPES

TINY = LlamaConfig(**{**SIZES, "max_position_embeddings": 600})


def test_a_device_is_measured() -> None:
    told: list[tuple[str, float, float]] = []
    threads, num_children = torch.get_num_threads(), len(psutil.Process().children())
    before = threading.enumerate()
    measured = measure_device(
        TINY, "tiny", "float32", device="here", max_seconds=4, progress=lambda *what: told.append(what)
    )
    assert torch.get_num_threads() == threads
    assert len(psutil.Process().children()) == num_children
    assert not [thread for thread in threading.enumerate() if thread not in before]

    assert [unit.units for unit in measured.units] == [(0,), (1, 2, 3), (4,)]
    assert measured.num_threads in [trial.num_threads for trial in measured.trials]
    assert measured.took_s < 12
    profile = measured.to_profile()
    assert len(profile.decode_unit_s) == len(profile.prefill_unit_s_per_token) == 5
    assert all(seconds > 0 for seconds in profile.decode_unit_s + profile.prefill_unit_s_per_token)
    block = measured.units[1]
    assert max(step.context_tokens + step.num_tokens for step in block.steps) <= 600  # no longer than the context
    assert {step.num_sessions for step in block.steps if step.is_decode} == {1, 4, 8}
    assert {step.num_tokens for step in block.steps} >= {1, 16, 64}
    assert measured.roofline().read_bytes_per_s > 0
    assert DeviceMeasurement.from_dict(json.loads(json.dumps(measured.as_dict()))) == measured

    fractions = [done / total for _, done, total in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1 and all(fraction < 1 for fraction in fractions[:-1])
    assert {what for what, _, _ in told} == {"profiling here"}


def test_keys_and_values_of_8_bits_are_measured_as_such(tmp_path: Path) -> None:
    store, measured = ProfileStore(tmp_path), {}
    for kv_dtype in KV_DTYPES:
        how: dict[str, Any] = {"kv_dtype": kv_dtype, "device": "here", "num_threads": 1, "max_seconds": 1.0}
        found = measure_or_reuse(TINY, "float32", store, **how)
        assert found.made_because == "there was none"
        again = measure_or_reuse(TINY, "float32", store, **how)
        assert again.made_because == "" and again.measurement.kv_dtype == kv_dtype
        measured[kv_dtype] = again.measurement
    plain, rounded = (measured[kv_dtype].units[1].work.kv_bytes_per_token for kv_dtype in KV_DTYPES)
    num_heads, size = TINY.num_key_value_heads, TINY.hidden_size // TINY.num_attention_heads
    assert (plain, rounded) == (2 * num_heads * size * 4, 2 * num_heads * (size + 4))
    assert DeviceMeasurement.from_dict(measured["int8"].as_dict()).kv_dtype == "int8"


def test_a_fresh_measurement_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def measure(config: object, model: str, dtype: str, **options: object) -> DeviceMeasurement:
        made.append(model)
        return measure_device(TINY, model, dtype, device="here", max_seconds=0.5, num_threads=1)

    monkeypatch.setattr(reuse, "measure_device", measure)
    store = ProfileStore(tmp_path)

    def profile(*, refresh: bool = False) -> reuse.Profiled:
        return measure_or_reuse(TINY, "float32", store, device="here", num_threads=1, refresh=refresh)

    first = profile()
    assert first.made_because == "there was none"
    monkeypatch.setattr(reuse, "usable_compute_bytes", lambda compute: 2**30)
    again = profile()
    assert again.made_because == ""
    assert again.measurement == dataclasses.replace(first.measurement, memory_bytes=2**30)  # memory is that of now
    assert profile(refresh=True).made_because == "it was asked for"
    monkeypatch.setattr(reuse, "current_versions", lambda: {"torch": "9.9"})
    assert "was" in profile().made_because
    assert len(made) == 3


def test_a_store_that_cannot_be_written_costs_the_next_run_time_and_not_this_one(tmp_path: Path) -> None:
    """Once, a cache that could not be written ended the whole run for want of a profile."""
    (tmp_path / "file").write_text("not a folder")
    store = ProfileStore(tmp_path / "file" / "profiles")
    how = {"device": "here", "num_threads": 1, "max_seconds": 0.2}
    made = measure_or_reuse(TINY, "float32", store, must_keep=False, **how)  # type: ignore[arg-type]
    assert made.measurement.units
    assert made.not_kept.startswith("Cannot keep profiles in")
    with pytest.raises(UsageError, match="Make that folder writable"):
        measure_or_reuse(TINY, "float32", store, **how)  # type: ignore[arg-type]


def test_a_disk_that_fills_up_leaves_no_half_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shardnet.profiling.store.os.replace", full)
    with pytest.raises(UsageError, match="No space left on device"):
        ProfileStore(tmp_path).save_link("here", 8, 0.0, LinkMeasurement("a", "b", *[1.0] * 8))
    assert not list(tmp_path.iterdir())


def test_workers_use_what_was_measured_for_the_best_threads(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    made = measure_or_reuse(TINY, "float32", store, max_seconds=2).measurement
    kind = device_kind(made.num_threads)
    for_worker = measure_or_reuse(TINY, "float32", store, device=kind, num_threads=made.num_threads)
    by_threads = measure_or_reuse(TINY, "float32", store, num_threads=made.num_threads)
    assert not for_worker.made_because and not by_threads.made_because
    assert for_worker.measurement.units == made.units
    assert store.load(kind, configuration_key(LlamaConfig()), "float32") is None, "another model is another profile"


def test_what_cannot_be_measured_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="dtype must be one of float32"):
        measure_device(TINY, "tiny", "int3")
    with pytest.raises(BadRequest, match="needs time and threads"):
        measure_device(TINY, "tiny", "float32", max_seconds=0)
    monkeypatch.setattr(profiler, "usable_compute_bytes", lambda compute: 1000)
    with pytest.raises(DoesNotFit, match=r"One unit of this model takes .* Free some memory"):
        measure_device(TINY, "tiny", "float32", max_seconds=1)
