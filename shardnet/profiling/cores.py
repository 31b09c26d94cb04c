"""The cores of this machine: which of them pay, and how much of their time this process may have.

The kernel's files are looked for under `root`, so that tests can show those of a phone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from shardnet.profiling.control_groups import groups_of_process
from shardnet.profiling.kernel_files import ROOT, read_int, read_text


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


def cpu_quota(root: Path = ROOT) -> float | None:
    """How many cores' time this process's control groups (version 1 or 2) allow; None without a limit."""
    quotas = []
    for folder, _, _ in groups_of_process(root, "cpu"):
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
