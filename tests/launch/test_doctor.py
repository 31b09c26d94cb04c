"""What the doctor finds, on this machine and on ones that lack something."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from shardnet.launch import cli, commands
from shardnet.launch.doctor import command as doctor_command
from shardnet.launch.doctor import doctor, thread_bench
from shardnet.launch.doctor.doctor import Finding
from shardnet.profiling import threads
from shardnet.profiling.measurement import ThreadTrial
from shardnet.progress import progress_bars


def test_the_whole_examination(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(thread_bench, "SECONDS_EACH", 0.01)
    monkeypatch.setattr(sys, "argv", ["shardnet", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is True
    assert found["rpc"]["found"]["call_s"] < 5
    assert found["threads"]["found"]["best"] >= 1
    assert found["memory"]["found"]["usable_bytes"] <= found["memory"]["found"]["total_bytes"]


def test_what_is_not_ready_ends_with_1_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Finding("rpc", False, "does not work: no TensorPipe", None, ("Install another[/x] :cat: build.",))
    monkeypatch.setattr(doctor, "examine", lambda show: iter([Finding("python", True, "3.11"), broken]))
    monkeypatch.setattr(sys, "argv", ["shardnet", "doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "NO rpc" in out
    assert "    Install another[/x] :cat: build." in out
    assert "not ready" in out


def test_a_missing_package_is_found_with_the_way_to_get_it() -> None:
    finding = doctor.find_package("no-such-package-at-all")
    assert not finding.ok
    assert finding.hints == ("Run: pip install 'no-such-package-at-all'",)


def test_without_torch_the_rest_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"torch": Finding("torch", False, "is not installed")}
    monkeypatch.setattr(doctor, "find_package", lambda name: missing.get(name) or Finding(name, True, "5.0"))
    findings = {finding.name: finding for finding in doctor.examine(progress_bars)}
    assert not findings["torch"].ok
    assert findings["memory"].ok
    assert "rpc" not in findings


def test_another_version_than_those_tried_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "1.0")
    finding = doctor.find_package("torch")
    assert finding.ok
    assert "shardnet was tried with torch" in finding.hints[0]


def test_folders(tmp_path: Path) -> None:
    assert doctor.find_folder("x", tmp_path / "not" / "yet", "").ok
    finding = doctor.find_folder("x", Path("/proc/nowhere"), "Choose another.")
    assert not finding.ok
    assert finding.hints == ("Choose another.",)


def test_a_phone_gets_its_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_phone", lambda: True)
    finding = doctor.find_system()
    assert finding.data["kind"] == "termux"
    assert "termux-wake-lock" in finding.hints[0]


def test_threads_are_chosen_as_for_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` once went by decoding alone, and named two threads where `profile` saw them collapse under load."""
    alone = ThreadTrial(1, decode_s=0.02, decode_under_load_s=0.02, prefill_s=0.2)
    pair = ThreadTrial(2, decode_s=0.01, decode_under_load_s=0.4, prefill_s=0.1)
    monkeypatch.setattr(threads, "try_threads", lambda shard, pace, clock: (alone, pair))
    finding = doctor.find_threads(lambda what, done, total: None)
    assert finding.data["best"] == 1
    assert [set(each) for each in finding.data["tried"]] == [{"threads", "decode_bytes_per_s", "prefill_flops"}] * 2
    block_bytes = 4 * (4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024)
    assert finding.data["tried"][1]["decode_bytes_per_s"] == pytest.approx(block_bytes / 0.01)


def test_the_command_is_registered() -> None:
    assert any(command.callback is doctor_command.doctor for command in commands.app.registered_commands)
