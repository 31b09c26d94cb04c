"""What this machine is and what it can spare: the memory that may be used, the cores that pay.

The kernel's files are looked for under `root`, so that tests can show those of a phone. Measures no speed: see
`shardnet.profiling.profiler`. Battery and temperature: see `shardnet.profiling.power`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from shardnet.profiling.kernel_files import ROOT, read_int, read_text

MARGIN_BYTES = 256 * 2**20
"""Left to the system and to other programs, or a twentieth of the memory where that is more."""


@dataclass(frozen=True)
class Hardware:
    """What decides how fast a machine computes. Two profiles of equal hardware may stand for each other."""

    machine: str
    """Such as `aarch64`."""
    cpu: str
    num_cores: int
    core_max_khz: tuple[int, ...]
    """The highest clock of each core, where the kernel says it."""
    memory_bytes: int
    is_phone: bool

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits. Memory counts in steps of 256 MiB: the kernel's own share varies a little."""
        values = {**asdict(self), "memory_bytes": round(self.memory_bytes / 2**28)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "core_max_khz": list(self.core_max_khz)}


def describe_hardware(root: Path = ROOT) -> Hardware:
    """What this machine is."""
    clocks = core_max_khz(root)
    return Hardware(
        machine=platform.machine(),
        cpu=_cpu_name(root),
        num_cores=os.cpu_count() or 1,
        core_max_khz=tuple(clocks[core] for core in sorted(clocks)),
        memory_bytes=machine_memory(root).total_bytes,
        is_phone=is_phone(root),
    )


def is_phone(root: Path = ROOT) -> bool:
    """Whether this is Android: natively (Termux), or a Linux that Termux carries (proot)."""
    is_android = sys.platform == "android" or "ANDROID_ROOT" in os.environ
    return is_android or (root / "system/build.prop").exists()


# ---- memory ----


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


def num_process_threads() -> int:
    """The threads of this process; where there is no /proc, those that Python knows."""
    try:
        return int(psutil.Process().num_threads())
    except (OSError, psutil.Error):
        return threading.active_count()


def group_free_bytes(root: Path = ROOT) -> int | None:
    """What this process's control groups (version 1 or 2) still allow; None without a limit."""
    free = []
    for folder, limit_name, used_name in _groups(root, "memory"):
        limit, used = read_int(folder / limit_name), read_int(folder / used_name)
        if limit is None or limit >= 2**60:  # version 1 writes a huge number for "no limit"
            continue
        # Pages of files count as used, but the kernel drops them first.
        stat = dict(line.split(maxsplit=1) for line in read_text(folder / "memory.stat").splitlines() if " " in line)
        files = int(stat.get("total_inactive_file", stat.get("inactive_file", "0")))
        free.append(max(0, limit - max(0, (used or 0) - files)))
    return min(free, default=None)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, str, str]]:
    """Each control group over this process: its folder and the names of its limit and of what is used."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if hierarchy == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif controller in controllers.split(","):
            base, names = root / "sys/fs/cgroup" / controller, ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        # In a container the path is the host's; what is mounted is the container's own group.
        yield from ((parent, *names) for parent in (folder, *folder.parents) if parent.is_relative_to(base))


# ---- cores ----


def core_max_khz(root: Path = ROOT) -> dict[int, int]:
    """The highest clock of each core, where the kernel says it."""
    clocks = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*"):
        khz = read_int(folder / "cpufreq/cpuinfo_max_freq")
        if khz is not None:
            clocks[int(folder.name[3:])] = khz
    return clocks


def fast_cores(allowed: set[int], max_khz: Mapping[int, int]) -> set[int]:
    """The allowed cores without those of the slowest cluster. Pure.

    Every step ends with the slowest thread, so that one little core halves the speed of four big ones. All cores stay
    where all are alike (within a tenth: boost clocks of a server's cores differ a little), or where a clock is unknown.
    """
    if not allowed <= set(max_khz):
        return set(allowed)
    slowest, fastest = min(max_khz[core] for core in allowed), max(max_khz[core] for core in allowed)
    if slowest > 0.9 * fastest:
        return set(allowed)
    return {core for core in allowed if max_khz[core] > slowest * 1.05}


def usable_cores(root: Path = ROOT) -> set[int]:
    """The cores on which shardnet's threads should run."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return fast_cores(allowed, core_max_khz(root))


def max_threads(root: Path = ROOT) -> int:
    """The most threads worth trying: one a fast core, and no more than the control group's share of time allows."""
    quota = cpu_quota(root)
    most = len(usable_cores(root))
    return max(1, most if quota is None else min(most, math.ceil(quota)))


def device_kind(num_threads: int, root: Path = ROOT) -> str:
    """Equal for processes that are equally fast: the host, threads, and what the control group gives of the cores."""
    quota = cpu_quota(root)
    limited = "" if quota is None else f"-of-{quota:g}-cores"
    return f"{platform.node() or 'device'}-{num_threads}-threads{limited}"


def cpu_quota(root: Path = ROOT) -> float | None:
    """How many cores' time this process's control groups (version 1 or 2) allow; None without a limit."""
    quotas = []
    for folder, _, _ in _groups(root, "cpu"):
        quota, period = [*(read_text(folder / "cpu.max") or "max").split(), "1"][:2]
        if quota != "max":
            quotas.append(int(quota) / int(period))
            continue
        v1_quota, v1_period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
        if v1_quota and v1_quota > 0 and v1_period:
            quotas.append(v1_quota / v1_period)
    return min(quotas, default=None)


def last_level_cache_bytes(root: Path = ROOT) -> int:
    """The largest cache of core 0; 32 MiB where the kernel does not say."""
    sizes = []
    for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = read_text(file).strip()
        if text[:-1].isdigit():
            sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1))
    return max(sizes, default=32 * 2**20)


def _cpu_name(root: Path) -> str:
    """The processor's name; on Arm, where there is none, its implementer and parts."""
    values: dict[str, set[str]] = {}
    for line in read_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), set()).add(value.strip())
    for key in ("model name", "Hardware", "Model"):
        if values.get(key):
            return min(values[key])
    parts = sorted(values.get("CPU implementer", set())) + sorted(values.get("CPU part", set()))
    return " ".join(parts) or platform.processor() or "unknown"
