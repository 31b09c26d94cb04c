"""What a run looked like in which a device was lost, read back from the files of its profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, answer, loaded, rings_of
from processes import wait_until

from shardnet.cluster import run_log
from shardnet.cluster.model import Model

NUM_TOKENS = 24


@pytest.fixture(autouse=True)
def quick(quick_watch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "FETCH_EVERY_S", 0.01)


def has_spans_of(model: Model, device: str) -> bool:
    """Whether steps of a device were fetched."""
    [stage] = [stage for stage in rings_of(model).current.stages if stage.plan.device == device]
    return any(span[0] == "compute" for span in list(stage.spans))


def computing(trace: list[dict[str, Any]]) -> dict[str, list[float]]:
    """When each device began steps."""
    names = {each["pid"]: each["args"]["name"] for each in trace if each["name"] == "process_name"}
    starts: dict[str, list[float]] = {}
    for each in trace:
        if each.get("cat") == "compute":
            starts.setdefault(names[each["pid"]], []).append(each["ts"])
    return starts


def test_a_loss_is_seen_in_the_trace_and_in_tensorboard(tiny: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with loaded(tiny, [2, 2, 2], record_spans=True, standby="cold") as (ring, model):
        expected = answer(model, PROMPT, NUM_TOKENS)
        model.reset_report()
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(5):
            next(stream)
        wait_until(lambda: has_spans_of(model, "b"))
        ring.network.kill("b")
        "".join(stream)
        assert stream.result.token_ids == expected
        model.write_profile(tmp_path)
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    marks = {each["name"]: each["ts"] for each in trace if each["ph"] == "i"}
    assert list(marks) == ["b lost", "recovered"]
    [recovery] = [each for each in trace if each.get("cat") == "change"]
    assert recovery["name"] == "recovery"
    assert recovery["ts"] + recovery["dur"] == pytest.approx(marks["recovered"], abs=2)
    assert recovery["ts"] <= marks["b lost"] + 1000
    starts = computing(trace)
    assert set(starts) == {"a", "b", "c"}
    assert 0 < max(starts["b"]) < marks["recovered"], "what was lost stays in the trace"
    assert max(max(starts["a"]), max(starts["c"])) > marks["recovered"], "and the others go on"

    whole = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "run")).Reload()
    [repair] = whole.Scalars("recovery/seconds")
    assert repair.value == pytest.approx(recovery["dur"] / 1e6, abs=0.002)
    devices = [point.value for point in whole.Scalars("plan/devices")]
    assert (devices[0], devices[-1]) == (3, 2)
    versions = [point.value for point in whole.Scalars("plan/version")]
    assert versions == sorted(versions) and versions[0] < versions[-1]
    assert any("b is lost" in each.tensor_proto.string_val[0].decode() for each in whole.Tensors("events/text_summary"))
    rates = whole.Scalars("answers/tokens_per_s")
    bin_s = (rates[-1].wall_time - rates[0].wall_time) / (len(rates) - 1)
    assert sum(point.value for point in rates) * bin_s == pytest.approx(NUM_TOKENS, rel=0.05)
    assert (tmp_path / "tensorboard" / "stage-1-b").is_dir()
    assert "b is lost" in (tmp_path / "plan.md").read_text()


def test_a_new_account_begins_without_what_was(tiny: Path, tmp_path: Path) -> None:
    with loaded(tiny, [2, 2, 2], record_spans=True, standby="cold") as (ring, model):
        answer(model)
        wait_until(lambda: has_spans_of(model, "b"))
        ring.network.kill("b")
        wait_until(lambda: [event.event for event in model.events] == ["lost", "recovered"])
        model.reset_report()
        answer(model)
        timeline = model.deployment.timeline()
        assert {device for _, device in timeline.tracks} == {"a", "c"}
        history = timeline.history_of_run
        assert history is not None and history.events == () and history.num_devices == 2
        assert len(history.heard_ns) == 12
