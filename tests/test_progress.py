"""How far long work is, told to those who watch."""

from __future__ import annotations

import threading

import pytest

from shardnet.progress import in_turn, progress_bars


def test_who_tells_never_waits_for_who_shows() -> None:
    """Once, a pager that was paused held up the thread that reads from all devices, and each was lost after 30 s."""
    shown: list[tuple[str, float, float]] = []
    goes_on = threading.Event()

    def show(what: str, done: float, total: float) -> None:
        goes_on.wait(10)
        shown.append((what, done, total))

    with in_turn(show) as progress:
        for done in range(3):
            progress("loading", done, 3)
        assert shown == []
        goes_on.set()
        progress("loading", 3, 3)
    assert shown == [("loading", done, 3) for done in range(4)], "all of it, in order, before the block ends"


def test_a_line_may_say_more_time_by_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        for done in range(3):
            progress(f"fetching: {done} of 2 MB", done, 2)
    assert capsys.readouterr().err == "fetching: done\n"
