"""The most memory that this process has had."""

from __future__ import annotations

from pathlib import Path


def peak_bytes(*, from_now: bool = False) -> int:
    """The most memory that this process has had, or what it has, from when on it is looked at anew."""
    if from_now:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
