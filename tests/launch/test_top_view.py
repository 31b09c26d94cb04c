"""What `shardnet top` draws."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shardnet.launch.cluster.tables import show_status
from shardnet.launch.cluster.top_view import view

MEMBER = {
    "name": "phone[b]",
    "state": "present",
    "units": [[0, 11], [13, 13]],
    "num_sessions": 1,
    "memory_bytes": 300 * 2**20,
    "memory_usable_bytes": None,
    "num_threads": 4,
    "battery_percent": None,
    "is_charging": None,
    "temperature_c": None,
}
STAGE = {"device": "phone[b]", "first_unit": 0, "last_unit": 11, "compute_share": 0.75, "wire_share": 0.05}
SESSION = {"prompt_tokens": 5, "num_tokens": 1, "age_s": 2.0, "guesses_checked": 0, "guesses_right": 0}
STATUS: dict[str, Any] = {
    "members": [MEMBER],
    "sources": ["@source-1"],
    "model": "smollm2",
    "loading": "",
    "why_none": "",
    "plan_version": 3,
    "sessions": [{**SESSION, "source": f"@source-{n}"} for n in range(7)],
    "broken_off": [],
    "stages": [{**STAGE, "idle_share": 0.2}, {**STAGE, "first_unit": 13, "last_unit": 13, "compute_share": None}],
    "tokens_per_s": 12.34,
    "events": [{"at_s": 1e9 + n, "event": "joined", "text": f"event {n}."} for n in range(40)],
}
STATUS["stages"][1] |= {"wire_share": None, "idle_share": None}


def drawn(status: dict[str, Any], height: int = 20, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    console.print(view(status, 1e9, height, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_row_for_each_device_with_what_its_time_goes_to() -> None:
    lines = drawn(STATUS)
    assert lines[0].startswith("smollm2 (plan 3)   12.3 tokens/s   7 sessions   ")
    (row,) = [line for line in lines if "phone[b]" in line]
    for cell in ("0-11, 13", "75%, ?", "5%, ?", "20%, ?", "300 MiB", " ? "):
        assert cell in row
    assert "battery" not in "".join(lines), "nobody has said anything of one"


@pytest.mark.parametrize("width", [24, 40, 48, 64, 80])
def test_a_narrow_screen_has_fewer_columns_and_whole_words(width: int) -> None:
    """A phone has some 45 characters in a line."""
    lines = drawn({**STATUS, "sessions": [], "events": []}, width=width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines[1:]) and any("phone[b]" in line for line in lines)
    assert ("compute" in "".join(lines)) == (width > 40)


def test_as_many_events_as_there_is_room_for_and_the_last_ones() -> None:
    for height in (0, 20, 40):
        lines = drawn(STATUS, height)
        assert len(lines) <= max(height, 18)
        assert lines[-1].endswith("event 39.")


def test_of_many_sessions_some_are_told() -> None:
    assert "and 2 more" in drawn(STATUS)


def test_guesses_where_there_were_any(capsys: pytest.CaptureFixture[str]) -> None:
    """In `top` and in the text of `status`."""
    guessing = {**SESSION, "source": "@source-9", "guesses_checked": 60, "guesses_right": 35}
    status = {**STATUS, "members": [], "stages": [], "sessions": [STATUS["sessions"][0], guessing]}
    show_status(status, Path("state"))
    for lines in (drawn(status), capsys.readouterr().out.splitlines()):
        plain, guessed = (line for line in lines if "@source-" in line)
        assert "guesses" not in plain and "35 of 60 guesses right" in guessed


def test_batteries_and_temperatures_where_they_are_told() -> None:
    told = {**MEMBER, "battery_percent": 61.0, "is_charging": True, "temperature_c": 38.4}
    (row,) = [line for line in drawn({**STATUS, "members": [told]}) if "phone" in line]
    assert "61%+" in row and "38" in row
    told = {**told, "is_charging": False, "temperature_c": None}
    (row,) = [line for line in drawn({**STATUS, "members": [told]}) if "phone" in line]
    assert "61% " in row and "38" not in row


def test_without_a_model_or_devices() -> None:
    nothing = {**STATUS, "members": [], "model": "", "stages": [], "tokens_per_s": None, "sessions": [], "events": []}
    assert drawn(nothing)[0].startswith("no model   ? tokens/s   0 sessions")
    assert drawn({**nothing, "loading": "smollm2"})[0].startswith("loading smollm2   ")


def test_top_starts_without_what_takes_seconds() -> None:
    modules = "sys, shardnet.launch.commands, shardnet.launch.cluster.top"
    program = f"import {modules}; print(*{{'torch', 'numpy'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
