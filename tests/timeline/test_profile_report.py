from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest

from shardnet.errors import UsageError
from shardnet.plan import LeftOut, ModelProfile, Plan, UnitProfile, stages_from_counts
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


def test_a_profile_without_a_single_step_is_no_error(tmp_path: Path, plan: Plan, model_profile: ModelProfile) -> None:
    pytest.importorskip("tensorboard")
    folder = write_profile(tmp_path, Timeline(), plan, model_profile, {})
    assert (folder / "plan.png").exists()


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
