"""Which process it was, in words that another process can keep, and look up later whether that one is still there."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("iII")
"""Process, user, group."""
_UNKNOWN = "?"
_NUM_WORDS = 4
_DEAD = "ZX"
"""States of a process that has ended and was not buried yet."""


def process_behind(connection: socket.socket) -> str:
    """The process that has connected to a Unix socket; empty where the system does not say."""
    if connection.family != socket.AF_UNIX:
        return ""
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(credentials)
        return process_of(pid)
    except (OSError, AttributeError):  # no Linux
        return ""


def process_of(pid: int) -> str:
    """The process that has that number now; empty where the system does not say, or there is none."""
    try:
        _, begun = _state_of(pid)
        return f"{_boot()} {_namespace()} {pid} {begun}"
    except OSError:  # no Linux, or a process of another container
        return ""


def number_of(process: str) -> int | None:
    """The number of a process; None where that is not known."""
    words = process.split()
    return int(words[2]) if len(words) == _NUM_WORDS else None


def has_ended(process: str) -> bool:
    """Whether that process is no more. False also where that cannot be known.

    The number alone would not do: it is given again to others, and means nothing in another container.
    """
    words = process.split()
    if len(words) != _NUM_WORDS:
        return False
    boot, namespace, pid, begun = words
    if boot != _boot():
        return True
    if namespace != _namespace():
        return False
    try:
        state, begun_now = _state_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return begun != begun_now or state in _DEAD


def _state_of(pid: int | str) -> tuple[str, str]:
    """What a process is doing, and when it began, in ticks since the machine was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


def _boot() -> str:
    """Which start of the machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # Android may keep it to itself
        return _UNKNOWN


def _namespace() -> str:
    """Where numbers of processes mean the same."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return _UNKNOWN
