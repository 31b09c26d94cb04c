"""What this machine is: what decides how fast it computes.

The kernel's files are looked for under `root`, so that tests can show those of a phone. Measures no speed: see
`shardnet.profiling.profiler`. What it can spare now: see `memory` and `cores`; battery and temperature: `power`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shardnet.process.compute import CPU
from shardnet.profiling.compute import accelerator_name
from shardnet.profiling.cores import core_max_khz
from shardnet.profiling.kernel_files import ROOT, read_text
from shardnet.profiling.memory import machine_memory
from shardnet.profiling.phone import is_phone


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
    accelerator: str = ""
    """Where it computes, if that is not the processor."""

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits. Memory counts in steps of 256 MiB: the kernel's own share varies a little."""
        values = {**asdict(self), "memory_bytes": round(self.memory_bytes / 2**28)}
        if not self.accelerator:
            del values["accelerator"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "core_max_khz": list(self.core_max_khz)}


def describe_hardware(root: Path = ROOT, compute: str = CPU) -> Hardware:
    """What this machine is.

    Args:
        compute: where it computes, see `compute`.
    """
    clocks = core_max_khz(root)
    return Hardware(
        machine=platform.machine(),
        cpu=_cpu_name(root),
        num_cores=os.cpu_count() or 1,
        core_max_khz=tuple(clocks[core] for core in sorted(clocks)),
        memory_bytes=machine_memory(root).total_bytes,
        is_phone=is_phone(root),
        accelerator="" if compute == CPU else accelerator_name(compute),
    )


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
