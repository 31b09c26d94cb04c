"""Events that cannot be written."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import pytest

from shardnet.launch.cluster.telling import tell

EVENT = {"event": "joined", "text": "a has joined."}


def test_a_log_whose_disk_is_full_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone that was a device for weeks ended by it, and a cluster did."""
    with suppress(OSError), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        for as_json in [True, False] * 500:  # more than is buffered
            tell(EVENT, as_json=as_json)
        monkeypatch.undo()


def test_a_program_that_reads_no_more_ends_who_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with suppress(OSError), open(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(BrokenPipeError):
            tell(EVENT, as_json=True)
        monkeypatch.undo()
