"""The small files of /proc and /sys: one value each, any of them missing or forbidden."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def read_text(file: Path) -> str:
    """The file's text; empty where it cannot be read."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def read_int(file: Path) -> int | None:
    """The file's number; None where it cannot be read or holds none."""
    try:
        return int(read_text(file))
    except ValueError:
        return None
