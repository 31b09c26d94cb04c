"""Where a device computes: on its processor, or on an accelerator with memory of its own.

Weights, caches and work are there; what travels is on the CPU. What the machine says of an accelerator is asked of
torch, which is asked for it when it is needed and not before.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from shardnet.errors import UsageError
from shardnet.process.compute import CPU, METAL, has_own_memory, require_form
from shardnet.profiling.cores import cpu_quota, last_level_cache_bytes
from shardnet.profiling.memory import MARGIN_BYTES, MachineMemory, machine_memory, usable_memory_bytes

if TYPE_CHECKING:
    import torch


def compute_device(compute: str) -> torch.device:
    """What torch calls it.

    Raises:
        UsageError: there is no such thing here.
    """
    import torch

    require_form(compute)
    found = torch.device(compute)
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--compute {compute}: {_why_no_cuda()} Leave --compute out to use the processor.")
        if found.index >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UsageError(f"--compute {compute}: this machine has {count} CUDA device(s), counted from cuda:0.")
    if found.type == METAL and not torch.backends.mps.is_available():
        raise UsageError("--compute mps: this torch finds no Metal here. Leave --compute out to use the processor.")
    return found


def accelerator_name(compute: str) -> str:
    """Such as "NVIDIA H200"; empty for the processor."""
    device = compute_device(compute)
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return "" if device.type == "cpu" else "Metal"


def compute_memory(compute: str) -> MachineMemory:
    """Memory of where it computes, and what of it is available to this process."""
    device = compute_device(compute)
    if device.type == "cpu":
        return machine_memory()
    import torch

    if device.type == METAL:
        most = int(torch.mps.recommended_max_memory())
        return MachineMemory(most, max(most - torch.mps.driver_allocated_memory(), 0))
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    kept_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return MachineMemory(total_bytes, free_bytes + kept_bytes)


def usable_compute_bytes(compute: str) -> int:
    """What shardnet may use there now: as `memory.usable_memory_bytes` has it, a margin is left to others."""
    if compute == CPU:
        return usable_memory_bytes()
    available_bytes = compute_memory(compute).available_bytes
    usable_bytes = max(available_bytes - max(MARGIN_BYTES, available_bytes // 20), 0)
    return usable_bytes if has_own_memory(compute) else min(usable_bytes, usable_memory_bytes())


def return_cached(compute: str) -> None:
    """Give back what torch keeps of an accelerator's memory after it was freed: others may use it, too."""
    if compute == CPU:
        return
    import torch

    (torch.mps if compute == METAL else torch.cuda).empty_cache()


def compute_cache_bytes(compute: str) -> int:
    """The largest cache in front of that memory."""
    device = compute_device(compute)
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return last_level_cache_bytes()


def device_kind(num_threads: int, compute: str = CPU) -> str:
    """Equal for processes that are equally fast: the host, threads, what they may have of the cores, and where."""
    quota = cpu_quota()
    limited = "" if quota is None else f"-of-{quota:g}-cores"
    place = "" if compute == CPU else f"-{compute}"
    return f"{platform.node() or 'device'}-{num_threads}-threads{limited}{place}"


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "the torch that is installed here was built without CUDA. Install one that was built with it."
    return "torch finds no CUDA device here. Look whether nvidia-smi finds one."
