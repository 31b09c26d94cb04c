"""Looks whether this machine can be a device of a cluster, and how to make more of it."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil

from shardnet.foreign.plain_files import is_folder
from shardnet.launch.console import size
from shardnet.launch.doctor.finding import Finding
from shardnet.launch.doctor.network import dial_neighbours, find_address, find_clock, find_neighbours, read_joined
from shardnet.launch.doctor.packages import find_light_set, find_package, find_transformers
from shardnet.launch.doctor.phone import find_on_phone
from shardnet.launch.doctor.phone_readings import is_proot, read_phone
from shardnet.launch.doctor.working import find_kernels, find_rpc, find_threads
from shardnet.process.cache_folder import cache_folder
from shardnet.process.lasting import default_folder
from shardnet.profiling.cores import usable_cores
from shardnet.profiling.hardware import describe_hardware
from shardnet.profiling.memory import machine_memory, usable_memory_bytes
from shardnet.profiling.phone import is_phone
from shardnet.progress import Progress

Show = Callable[[], AbstractContextManager[Progress]]
"""Shows how far long work is, while a block runs."""

MOST_NAMED = 5
"""Models, for a person."""
LEAST_BYTES, FEW_BYTES = 2**28, 2**29
"""A device at rest takes the first."""


def examine(show: Show) -> Iterator[Finding]:
    """Look at one thing after the other; the slow ones come last, and only where the packages are there.

    No progress is shown while a finding is handed out, so that whoever prints it has the terminal to itself.
    """
    packages = [find_package("torch"), find_light_set()]
    yield from (find_python(), *packages, find_transformers(), find_memory(), find_cores(), find_system())
    yield find_folder("temporary_folder", Path(tempfile.gettempdir()), "Set TMPDIR to a folder that you may write to.")
    yield find_folder("state_folder", default_folder(), "Clusters live there: change its owner, or set XDG_STATE_HOME.")
    yield from (find_address(), find_clock(time.time(), read_joined(default_folder())))
    yield find_neighbours(dial_neighbours(default_folder()))
    if is_phone():
        yield from find_on_phone(read_phone())
    if all(package.ok for package in packages):
        yield from find_models()
        for find in (find_rpc, find_kernels, find_threads):
            with show() as progress:
                finding = find(progress)
            yield finding


def find_python() -> Finding:
    """The Python that runs this."""
    version = platform.python_version()
    ok = sys.version_info >= (3, 10)
    return Finding("python", ok, version, version, () if ok else ("shardnet needs Python 3.10 or newer.",))


def find_memory() -> Finding:
    """How much there is, and how much shardnet would use."""
    total, usable = machine_memory().total_bytes, usable_memory_bytes()
    is_enough = usable >= LEAST_BYTES
    hints = ("Close other programs: this is too little for more than a small shard.",) if usable < FEW_BYTES else ()
    text = f"{size(usable)} may be used, of {size(total)}"
    return Finding("memory", is_enough, text, {"total_bytes": total, "usable_bytes": usable}, hints)


def find_cores() -> Finding:
    """The processor, and the cores that shardnet's threads would run on."""
    hardware = describe_hardware()
    cores = sorted(usable_cores())
    text = f"{len(cores)} of {hardware.num_cores} ({hardware.cpu}, {hardware.machine})"
    data = {"cpu": hardware.cpu, "machine": hardware.machine, "num_cores": hardware.num_cores, "usable": cores}
    return Finding("cores", True, text, data)


def find_system() -> Finding:
    """The operating system, with what to know on a phone."""
    name = f"{platform.system()} {platform.release()}"
    if not is_phone():
        return Finding("system", True, name, {"name": name, "kind": "linux"})
    kind = "proot" if is_proot() else "termux"
    hints = () if kind == "proot" else ("Termux's own torch multiplies slowly in bfloat16: try --dtype float32.",)
    return Finding("system", True, f"{name}, {kind} on Android", {"name": name, "kind": kind}, hints)


def find_folder(name: str, folder: Path, advice: str) -> Finding:
    """Whether files can be written there (or in the nearest parent that there is), and the space that is left."""
    existing = next(each for each in (folder, *folder.parents) if is_folder(each))
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = psutil.disk_usage(str(existing)).free
    except OSError as error:
        return Finding(
            name, False, f"{folder} cannot be written to: {error.strerror}", {"path": str(folder)}, (advice,)
        )
    return Finding(name, True, f"{folder} ({size(free)} free)", {"path": str(folder), "free_bytes": free})


def find_models() -> Iterator[Finding]:
    """Where converted models are kept, and which are there already."""
    folder = cache_folder()
    yield find_folder("cache_folder", folder, "Converted models are kept there: make room, or change its owner.")
    models = sorted(each.parent.name for each in folder.glob("[!.]*/config.json"))
    more = f" and {len(models) - MOST_NAMED} more" if len(models) > MOST_NAMED else ""
    yield Finding("cached_models", True, ", ".join(models[:MOST_NAMED]) + more or "none yet", models)
