"""Looks whether this machine can be a device of a cluster, and how to make more of it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shardnet.errors import ShardnetError
from shardnet.launch.console import size
from shardnet.launch.doctor.thread_bench import measure_threads
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.cores import usable_cores
from shardnet.profiling.hardware import describe_hardware
from shardnet.profiling.memory import machine_memory, usable_memory_bytes
from shardnet.profiling.phone import is_phone
from shardnet.progress import Progress

Show = Callable[[], AbstractContextManager[Progress]]
"""Shows how far long work is, while a block runs."""

CALL_S = 20.0
_DOCUMENTATION_ADDRESS = "192.0.2.1"
"""Reserved for documentation (RFC 5737). A UDP socket connected to it sends nothing, and shows the way out."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """A key of the JSON object."""
    ok: bool
    """False: shardnet cannot work like this."""
    text: str
    """What was found, for a person."""
    data: Any = None
    """The same for a program."""
    hints: tuple[str, ...] = field(default=())
    """What would be better, or what to do."""


def examine(show: Show) -> Iterator[Finding]:
    """Look at one thing after the other; the slow ones come last, and only where the packages are there.

    No progress is shown while a finding is handed out, so that whoever prints it has the terminal to itself.
    """
    packages = [find_package(name) for name in ("torch", "transformers")]
    yield from (find_python(), *packages, find_address(), find_memory(), find_cores(), find_system())
    yield find_folder("temporary_folder", Path(tempfile.gettempdir()), "Set TMPDIR to a folder that you may write to.")
    if all(package.ok for package in packages):
        yield from find_models()
        for find in (find_rpc, find_threads):
            with show() as progress:
                finding = find(progress)
            yield finding


def find_python() -> Finding:
    """The Python that runs this."""
    version = platform.python_version()
    ok = sys.version_info >= (3, 10)
    return Finding("python", ok, version, version, () if ok else ("shardnet needs Python 3.10 or newer.",))


def find_package(name: str) -> Finding:
    """A package's version, and whether it is one that shardnet was tried with."""
    wanted = next(
        (each for each in importlib.metadata.requires("shardnet") or [] if re.match(rf"{name}\b", each)), name
    )
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "is not installed", None, (f"Run: pip install '{wanted}'",))
    from packaging.requirements import Requirement

    tried = Requirement(wanted).specifier
    hint = () if tried.contains(version, prereleases=True) else (f"shardnet was tried with {wanted}.",)
    return Finding(name, True, version, version, hint)


def find_address() -> Finding:
    """The address under which other devices would find this one, and its interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        try:
            way_out.connect((_DOCUMENTATION_ADDRESS, 9))
            address = str(way_out.getsockname()[0])
        except OSError:
            address = "127.0.0.1"
    interface = _interface_of(address)
    hints: tuple[str, ...] = ()
    if address.startswith("127."):
        hints = ("No network: devices on this machine can work together, others cannot reach it.",)
    text = f"{address} ({interface or 'unknown interface'})"
    return Finding("address", True, text, {"address": address, "interface": interface}, hints)


def _interface_of(address: str) -> str | None:
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:  # Android forbids it to programs without its permission
        return None
    return next((name for name, each in interfaces.items() if any(one.address == address for one in each)), None)


def find_memory() -> Finding:
    """How much there is, and how much shardnet would use."""
    total, usable = machine_memory().total_bytes, usable_memory_bytes()
    hints = ("Too little for more than a small shard: close other programs.",) if usable < 2**29 else ()
    text = f"{size(usable)} may be used, of {size(total)}"
    return Finding("memory", True, text, {"total_bytes": total, "usable_bytes": usable}, hints)


def find_cores() -> Finding:
    """The processor, and the cores that shardnet's threads would run on."""
    hardware = describe_hardware()
    cores = sorted(usable_cores())
    text = f"{len(cores)} of {hardware.num_cores} ({hardware.cpu}, {hardware.machine})"
    data = {"cpu": hardware.cpu, "machine": hardware.machine, "num_cores": hardware.num_cores, "usable": cores}
    return Finding("cores", True, text, data)


def find_system() -> Finding:
    """The operating system, with what to know on a phone."""
    release = platform.release()
    name = f"{platform.system()} {release}"
    if not is_phone():
        return Finding("system", True, name, {"name": name, "kind": "linux"})
    hints = [
        "Run termux-wake-lock, or the phone will stop computing when its screen goes dark.",
        "Android 12 and later end programs with many processes: start one device on a phone, not several.",
    ]
    is_proot = "proot" in release.lower() or "proot" in platform.version().lower()
    if not is_proot:
        hints.append("Termux's own torch multiplies slowly in bfloat16: try --dtype float32.")
    kind = "proot" if is_proot else "termux"
    return Finding("system", True, f"{name}, {kind} on Android", {"name": name, "kind": kind}, tuple(hints))


def find_folder(name: str, folder: Path, advice: str) -> Finding:
    """Whether files can be written there (or in the nearest parent that there is), and the space that is left."""
    existing = next(each for each in (folder, *folder.parents) if each.is_dir())
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
    yield Finding("cached_models", True, ", ".join(models) or "none yet", models)


def find_rpc(progress: Progress) -> Finding:
    """Whether a device can work here: starts one, as a process that joins over torch's RPC, and calls it."""
    try:
        from shardnet.cluster.cluster import Cluster

        start_s = time.perf_counter()
        with Cluster.local(1, threads_per_device=1, progress=progress) as cluster:
            join_s = time.perf_counter() - start_s
            cluster.describe()
            start_s = time.perf_counter()
            cluster.describe()
            call_s = time.perf_counter() - start_s
    except (ShardnetError, ImportError, OSError) as error:
        hint = "torch must be a build with distributed RPC (TensorPipe): the wheels for Linux and Termux's package are."
        return Finding("rpc", False, f"does not work: {error}", None, (hint,))
    text = f"a device joined within {join_s:.1f} s; a call to it took {call_s * 1e3:.1f} ms"
    return Finding("rpc", True, text, {"join_s": join_s, "call_s": call_s})


def find_threads(progress: Progress) -> Finding:
    """How many threads pay here: timed, never assumed."""
    best, speeds = measure_threads(progress)
    lines = [
        f"with {each.threads}: {each.decode_bytes_per_s / 1e9:.1f} GB/s, {each.prefill_flops / 1e9:.0f} GFLOP/s"
        for each in speeds
    ]
    data = {"best": best, "tried": [vars(each) for each in speeds]}
    return Finding("threads", True, f"{best} for decoding (" + "; ".join(lines) + ")", data)
