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
from shardnet.launch.doctor.thread_bench import ThreadSpeed, best_threads, counts_to_try
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


def test_threads_to_try() -> None:
    assert counts_to_try(1) == [1]
    assert counts_to_try(7) == [1, 2, 3, 4, 6, 7]
    assert counts_to_try(16) == [1, 2, 3, 4, 6, 8, 12, 16]


def test_more_threads_must_pay() -> None:
    def speeds(*gb_per_s: float) -> list[ThreadSpeed]:
        return [ThreadSpeed(threads, gb * 1e9, 1e9) for threads, gb in enumerate(gb_per_s, 1)]

    assert best_threads(speeds(10, 10.3)) == 1
    assert best_threads(speeds(10, 18, 2)) == 2


def test_the_command_is_registered() -> None:
    assert any(command.callback is doctor_command.doctor for command in commands.app.registered_commands)
