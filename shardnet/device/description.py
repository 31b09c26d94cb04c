"""What a device says of itself: what it is, and what it has now."""

from __future__ import annotations

import os
import platform
import uuid

from shardnet.process.compute import CPU
from shardnet.profiling.compute import compute_memory, usable_compute_bytes
from shardnet.profiling.cores import max_threads
from shardnet.profiling.memory import (
    num_process_threads,
    peak_rss_bytes,
    process_rss_bytes,
)
from shardnet.profiling.power import UNKNOWN_POWER, PowerState
from shardnet.transport.device_messages import DeviceDescription


def describe(
    device: str,
    kind: str,
    num_threads: int,
    memory_promised_bytes: int,
    memory_allowed_bytes: int | None,
    compute: str = CPU,
    power: PowerState = UNKNOWN_POWER,
) -> DeviceDescription:
    """This process as a device of a cluster."""
    host = f"{platform.node()}-{_boot_id()}"
    return DeviceDescription(
        device=device,
        pid=os.getpid(),
        host=host,
        network=f"{host}-{_network_namespace()}",
        kind=kind,
        machine=platform.machine(),
        compute=compute,
        num_threads=num_threads,
        num_cores=max_threads(),
        memory_total_bytes=compute_memory(compute).total_bytes,
        memory_usable_bytes=usable_compute_bytes(compute),
        memory_promised_bytes=memory_promised_bytes,
        memory_allowed_bytes=memory_allowed_bytes,
        rss_bytes=process_rss_bytes(),
        peak_rss_bytes=peak_rss_bytes(),
        num_os_threads=num_process_threads(),
        battery_percent=power.battery_percent,
        is_charging=power.is_charging,
        temperature_c=power.temperature_c,
    )


def _boot_id() -> str:
    """Tells machines of one name apart: phones are all called localhost."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            return boot_id.read().strip()
    except OSError:
        return f"{uuid.getnode():x}"


def _network_namespace() -> str:
    """Tells containers of one machine apart: between them lies more than its loopback."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""
