"""The memory of this machine and of this process, and how much of it shardnet may use.

The kernel's files are looked for under `root`, so that tests can show those of a phone.
"""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from typing import NamedTuple

import psutil

from shardnet.profiling.control_groups import groups_of_process
from shardnet.profiling.kernel_files import ROOT, read_int, read_text
from shardnet.profiling.phone import is_phone

MARGIN_BYTES = 256 * 2**20
"""Left to the system and to other programs, or a twentieth of the memory where that is more."""


def memory_budget(total_bytes: int, available_bytes: int, group_free_bytes: int | None, is_phone: bool) -> int:
    """Bytes that shardnet may use. Pure.

    A margin is left to everybody else. A phone gives at most half of its memory, since Android ends the largest
    program long before memory is full. A control group's limit holds where it is lower.
    """
    limits = [available_bytes - max(MARGIN_BYTES, available_bytes // 20)]
    if is_phone:
        limits.append(total_bytes // 2)
    if group_free_bytes is not None:
        limits.append(group_free_bytes - group_free_bytes // 20)
    return max(0, min(limits))


def usable_memory_bytes(root: Path = ROOT) -> int:
    """Bytes that shardnet may use on this machine now."""
    memory = machine_memory(root)
    return memory_budget(memory.total_bytes, memory.available_bytes, group_free_bytes(root), is_phone(root))


class MachineMemory(NamedTuple):
    """Memory of the whole machine."""

    total_bytes: int
    available_bytes: int


def machine_memory(root: Path = ROOT) -> MachineMemory:
    """As the kernel's files say it; where there are none (no /proc), as the C library does."""
    found: dict[str, int] = {}
    for line in read_text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable") and rest.split():
            found[name] = int(rest.split()[0]) * 1024
    if len(found) == 2:
        return MachineMemory(found["MemTotal"], found["MemAvailable"])
    try:
        memory = psutil.virtual_memory()
        return MachineMemory(memory.total, memory.available)
    except OSError:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        return MachineMemory(page_bytes * os.sysconf("SC_PHYS_PAGES"), page_bytes * os.sysconf("SC_AVPHYS_PAGES"))


def process_rss_bytes() -> int:
    """The memory that this process holds; where there is no /proc, the most that it has held."""
    try:
        return int(psutil.Process().memory_info().rss)
    except (OSError, psutil.Error):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_rss_bytes() -> int:
    """The most memory that this process has held. `ru_maxrss` would count its parent's too: it survives exec."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc here
    return process_rss_bytes()


def num_process_threads() -> int:
    """The threads of this process; where there is no /proc, those that Python knows."""
    try:
        return int(psutil.Process().num_threads())
    except (OSError, psutil.Error):
        return threading.active_count()


def group_free_bytes(root: Path = ROOT) -> int | None:
    """What this process's control groups (version 1 or 2) still allow; None without a limit."""
    free = []
    for folder, limit_name, used_name in groups_of_process(root, "memory"):
        limit, used = read_int(folder / limit_name), read_int(folder / used_name)
        if limit is None or limit >= 2**60:  # version 1 writes a huge number for "no limit"
            continue
        # Pages of files count as used, but the kernel drops them first, also those that were read twice ("active").
        stat = dict(line.split(maxsplit=1) for line in read_text(folder / "memory.stat").splitlines() if " " in line)
        files = sum(int(stat.get(f"total_{kind}", stat.get(kind, "0"))) for kind in ("inactive_file", "active_file"))
        free.append(max(0, limit - max(0, (used or 0) - files)))
    return min(free, default=None)
