from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest

from shardnet.errors import UsageError
from shardnet.plan import LeftOut, ModelProfile, Plan, UnitProfile, stages_from_counts
from shardnet.timeline.events import Event
from shardnet.timeline.history import History
from shardnet.timeline.report import plan_text, require_extras, require_writable, write_profile
from shardnet.timeline.timeline import Timeline

MS = 1_000_000


@pytest.fixture
def model_profile() -> ModelProfile:
    sizes = [56_623_104, *[7_080_192] * 30, 56_624_256]
    units = tuple(UnitProfile(f"unit {index}", size, 768, 1152) for index, size in enumerate(sizes))
    return ModelProfile("SmolLM2-135M-Instruct", "llama", "bfloat16", units, 8192)


@pytest.fixture
def plan() -> Plan:
    stages = stages_from_counts(["laptop", "phone-1", "phone-2"], [14, 9, 9])
    return Plan(stages, version=3, left_out=(LeftOut("board", "slower than the rest"),), why="The laptop limits it.")


def run_timeline(plan: Plan, laps: int = 60) -> Timeline:
    rng = random.Random(0)
    spans: dict[int, list[tuple[str, int, int, int, int, int, str]]] = {index: [] for index in range(3)}
    at = 5_000 * MS
    for _ in range(laps):
        for index in range(len(plan.stages)):
            wire = rng.randrange(300_000, 900_000)
            work = rng.randrange(3, 6) * MS
            sender = plan.stages[index - 1].device
            spans[index].append(("wire", at, at + wire, 0, 1, 1152, sender))
            spans[index].append(("compute", at + wire, at + wire + work, 1, 1, 0, ""))
            at += wire + work
    timeline = Timeline()
    for index, stage in enumerate(plan.stages):
        timeline.add(stage.device, index, spans[index])
    return timeline


def test_a_profile_is_read_back(tmp_path: Path, plan: Plan, model_profile: ModelProfile) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    timeline = run_timeline(plan)
    summary = {"tokens_per_s": 61.5, "text": "Once", "stages": [{"device": "laptop"}]}
    for _ in range(2):  # the second profile replaces the first
        folder = write_profile(tmp_path / "new" / "profile", timeline, plan, model_profile, summary)
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "| 1 | phone-1 | units 14-22 | 60.8 MiB |" in (folder / "plan.md").read_text()

    runs = sorted(path.name for path in (folder / "tensorboard").iterdir())
    assert runs == ["run", "stage-0-laptop", "stage-1-phone-1", "stage-2-phone-2"]
    whole = accumulator.EventAccumulator(str(folder / "tensorboard" / "run")).Reload()
    assert whole.Scalars("summary/tokens_per_s")[0].value == 61.5
    assert whole.Tags()["images"] == ["plan"]
    assert "plan/text_summary" in whole.Tags()["tensors"]
    stage = accumulator.EventAccumulator(str(folder / "tensorboard" / "stage-1-phone-1")).Reload()
    shares = [[event.value for event in stage.Scalars(f"share/{kind}")] for kind in ("compute", "wire", "idle")]
    assert [sum(parts) for parts in zip(*shares)] == pytest.approx([1.0] * 100)
    exact = timeline.shares()[1].compute
    assert sum(shares[0]) / 100 == pytest.approx(exact, abs=1e-3)
    tokens = sum(event.value for event in stage.Scalars("rate/tokens_per_s")) / 100
    first, last = timeline.bounds_ns
    assert tokens * (last - first) / 1e9 == pytest.approx(60, rel=1e-3)
    walls = [event.wall_time for event in stage.Scalars("share/compute")]
    assert walls == sorted(walls)
    assert walls[-1] - walls[0] == pytest.approx((last - first) / 1e9 * 0.99, rel=1e-3)


def test_a_profile_without_a_single_step_is_no_error(
    tmp_path: Path, plan: Plan, model_profile: ModelProfile, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    happened = History(5_000 * MS, 1, 3, (Event(0.5, "back", "phone-1 is heard again", "phone-1", None, 1, 3),))
    for timeline in (Timeline(), Timeline(history=happened)):
        folder = write_profile(tmp_path, timeline, plan, model_profile, {})
        assert (folder / "plan.png").exists()
    assert "phone-1 is heard again" in (folder / "plan.md").read_text()
    assert "loaded with record_spans" in caplog.messages[0]


def test_a_profile_says_which_spans_are_missing(
    tmp_path: Path, plan: Plan, model_profile: ModelProfile, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    timeline = run_timeline(plan)
    timeline.add("phone-1", 1, [], num_dropped=7)
    folder = write_profile(tmp_path, timeline, plan, model_profile, {})
    assert "the oldest ones: 7 of stage 1 (phone-1)" in (folder / "plan.md").read_text()
    assert caplog.messages == [timeline.what_is_lost]


def test_plan_text_says_what_was_left_out_and_why(plan: Plan, model_profile: ModelProfile) -> None:
    text = plan_text(plan, model_profile)
    assert "Plan 3 of SmolLM2-135M-Instruct (bfloat16)" in text
    assert "Not used: board: slower than the rest" in text
    assert text.endswith("The laptop limits it.\n")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot write a profile to .*file.*Name a folder"):
        require_writable(tmp_path / "file" / "profile")
    for folder in ("", "\0", None, 5, "x" * 5000):  # once TypeError, ValueError, or the current folder
        with pytest.raises(UsageError, match="Name"):
            require_writable(folder)  # type: ignore[arg-type]


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"tensorboard and matplotlib: pip install 'shardnet\[profile\]'"):
        require_extras()


def test_what_happened_is_in_the_trace_and_in_tensorboard(
    tmp_path: Path, plan: Plan, model_profile: ModelProfile
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    timeline = run_timeline(plan)
    first, last = timeline.bounds_ns
    events = (
        Event(-0.1, "recovered", "plan 2 is in force", "", 0.3, 2, 3),
        Event(0.3, "lost", "phone-2 is lost: its units go to laptop", "phone-2", None, 2, 3),
        Event(0.5, "recovered", "plan 3 is in force", "", 0.2, 3, 2),
        Event(0.7, "rebalanced", "units 4-5 from laptop to phone-1", "", 0.05, 4, 2),
    )
    heard = [first + at * 10 * MS for at in (*range(1, 30), *range(50, 60))]
    timeline.history = History(first, 1, 4, events, tuple(heard))
    folder = write_profile(tmp_path, timeline, plan, model_profile, {})

    trace = json.loads((folder / "trace.json").read_text())["traceEvents"]
    [pid] = {each["pid"] for each in trace if each.get("args") == {"name": "coordinator"}}
    marks = {each["name"]: each["ts"] for each in trace if each["ph"] == "i"}
    begin_us = first / 1000 - min(span.start_ns for track in timeline.tracks.values() for span in track) / 1000
    assert list(marks) == ["phone-2 lost", "recovered", "rebalanced"]
    assert marks["phone-2 lost"] == pytest.approx(begin_us + 300_000)
    changes = [each for each in trace if each["ph"] == "X" and each["pid"] == pid]
    assert [each["name"] for each in changes] == ["recovery", "switch"]
    assert (changes[0]["ts"], changes[0]["dur"]) == pytest.approx((begin_us + 300_000, 200_000))

    whole = accumulator.EventAccumulator(str(folder / "tensorboard" / "run")).Reload()
    assert [point.value for point in whole.Scalars("recovery/seconds")] == pytest.approx([0.2])
    assert [point.value for point in whole.Scalars("switch/seconds")] == pytest.approx([0.05])
    rates = [point.value for point in whole.Scalars("answers/tokens_per_s")]
    walls = [
        point.wall_time - whole.Scalars("recovery/seconds")[0].wall_time for point in whole.Scalars("plan/devices")
    ]
    dip = [rate for rate, wall in zip(rates, walls) if -0.19 < wall < -0.02]
    assert dip and set(dip) == {0.0} and max(rates) > 50
    assert sum(rates) / 100 * (last - first) / 1e9 == pytest.approx(len(heard), rel=1e-3)
    devices = [point.value for point in whole.Scalars("plan/devices")]
    assert [devices[0], devices[-1]] == [3, 2] and devices == sorted(devices, reverse=True)
    assert whole.Scalars("plan/version")[-1].value == 4
    texts = [each.tensor_proto.string_val[0].decode() for each in whole.Tensors("events/text_summary")]
    assert texts == [event.text for event in events[1:]]
    assert "- after 0.30 s: phone-2 is lost" in (folder / "plan.md").read_text()
