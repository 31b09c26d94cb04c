"""What the doctor says of phones, of which there is none here: what they say lies in tests/data/phones."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from shardnet.errors import UsageError
from shardnet.launch.cluster import join
from shardnet.launch.cluster.options import JoinOptions, OwnDeviceOptions
from shardnet.launch.doctor import phone_readings
from shardnet.launch.doctor.finding import Finding
from shardnet.launch.doctor.phone import PhoneReadings, find_on_phone
from shardnet.launch.doctor.phone_readings import read_phone
from shardnet.launch.values import machine_name
from shardnet.profiling.phone import machine_label
from shardnet.profiling.power import PowerState, battery_from_termux

PHONES = Path(__file__).parent.parent / "data" / "phones"
NAMES = sorted(each.name for each in PHONES.iterdir() if each.is_dir())


def told(seen: PhoneReadings) -> dict[str, Finding]:
    return {finding.name: finding for finding in find_on_phone(seen)}


def become(phone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put programs on the path that print what those of a phone do. Returns what is expected of it."""
    content: dict[str, Any] = json.loads((PHONES / phone / "phone.json").read_text())
    programs = {name: PHONES / phone / f"{name}.json" for name in content["prints"]}
    for name, file in programs.items():
        write_program(tmp_path / name, f"cat '{file}'")
    for name in content["commands"]:
        write_program(tmp_path / name, "exit 0")
    properties = "".join(f"    {name}) echo {value} ;;\n" for name, value in content["properties"].items())
    write_program(tmp_path / "getprop", f'case "$1" in\n{properties}esac')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(platform, "release", lambda: content["release"])
    return content


def write_program(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("phone", NAMES)
def test_a_phone_is_read_and_judged(phone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = become(phone, tmp_path, monkeypatch)["verdicts"]
    seen = read_phone()
    found = told(seen)
    assert {name: finding.verdict for name, finding in found.items()} == expected
    for finding in found.values():
        assert json.dumps(finding.data) and finding.text
        assert finding.verdict == "ok" or finding.hints, "says what to do"


def test_every_phone_says_where_its_readings_are_from() -> None:
    assert NAMES
    for name in NAMES:
        assert json.loads((PHONES / name / "phone.json").read_text())["source"]


@pytest.mark.parametrize(
    ("sdk", "watched", "verdict", "hint"),
    [
        (30, None, "ok", None),
        (31, None, "warning", "max_phantom_processes"),
        (33, None, "warning", "From a computer: adb shell settings put global"),
        (34, None, "warning", "Disable child process restrictions"),
        (34, True, "warning", "Disable child process restrictions"),
        (35, False, "ok", None),
        (None, None, "warning", "Disable child process restrictions"),
    ],
)
def test_who_ends_child_processes(sdk: int | None, watched: bool | None, verdict: str, hint: str | None) -> None:
    finding = told(PhoneReadings("termux", sdk=sdk, watches_children=watched, num_processes=7))["child_processes"]
    assert finding.verdict == verdict
    assert hint is None or hint in finding.hints[0]


def test_a_low_battery_without_a_charger_is_told() -> None:
    for power, verdict in (
        (PowerState(19.0, False), "warning"),
        (PowerState(19.0, True), "ok"),
        (PowerState(20.0, False), "ok"),
        (PowerState(), "warning"),
    ):
        assert told(PhoneReadings("termux", power=power))["battery"].verdict == verdict


def test_without_termux_api_it_says_what_to_install() -> None:
    assert "pkg install termux-api" in told(PhoneReadings("termux", has_api=False))["battery"].hints[1]
    assert "the app Termux:API" in told(PhoneReadings("termux", has_api=True))["battery"].hints[1]


def test_without_a_wake_lock_a_phone_is_not_ready() -> None:
    assert told(PhoneReadings("termux", has_wake_lock=False))["wake_lock"].verdict == "problem"
    assert "--isolated" in told(PhoneReadings("proot", has_wake_lock=False))["wake_lock"].hints[0]


def test_an_app_that_never_answers_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(phone_readings, "read_power", lambda: PowerState())
    monkeypatch.setattr(phone_readings, "run_command", lambda *command: asked.append(command))
    assert read_phone().wifi is None and asked == []


def test_the_batteries_of_all_phones_are_understood() -> None:
    for name in NAMES:
        file = PHONES / name / "termux-battery-status.json"
        if file.exists():
            state = battery_from_termux(file.read_text())
            assert state is not None and state.battery_percent is not None and state.battery_c is not None


def test_a_phone_is_called_after_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them call themselves localhost, and the cluster would have localhost, localhost.2 and localhost.3."""
    become("android_14_termux", tmp_path, monkeypatch)
    machine_label.cache_clear()
    try:
        monkeypatch.setattr(platform, "node", lambda: "localhost")
        assert machine_name() == "Pixel-7"
        machine_label.cache_clear()
        (tmp_path / "getprop").unlink()
        assert machine_name() == "localhost"
    finally:
        machine_label.cache_clear()


def test_a_phone_that_cannot_tell_whether_it_charges_is_not_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--only-charging` it would compute on its battery, and nobody would notice."""
    monkeypatch.setattr(join, "is_phone", lambda: True)
    monkeypatch.setattr(join, "read_power", lambda: PowerState(hottest_c=40.0))
    with pytest.raises(UsageError, match="--only-charging must know whether this phone is being charged"):
        join.run(Path("/nowhere"), OwnDeviceOptions(), JoinOptions(only_charging=True), as_json=True)
