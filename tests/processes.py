"""Looks at processes from outside: which devices a command has started, and whether they are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil


def devices_of(pid: int) -> dict[str, int]:
    """The devices under a process: name -> process id. Each prints into NAME.log."""
    devices = {}
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(OSError):
            output = Path(os.readlink(f"/proc/{child.pid}/fd/1"))
            if output.suffix == ".log" and output.stem != "nursery":
                devices[output.stem] = child.pid
    return devices


def is_over(pid: int) -> bool:
    """Gone, or a corpse that its new parent has not collected."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_frozen(pid: int) -> bool:
    """Stopped with all its threads. On a busy machine some of them go on for a while after the main one has stopped."""
    stats = (task / "stat" for task in Path(f"/proc/{pid}/task").iterdir())
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Look again and again; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
