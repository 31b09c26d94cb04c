"""Emulated clusters: devices of different speeds behind different links, as processes of this machine. Needs root.

    if not in_own_network(): sys.exit(enter_own_network())     # once, at the start of a program
    with EmulatedCluster(devices, links) as cluster: ...

Each device is a process in a network namespace of its own. What they send each other crosses a switch in user space
(`emulated_network.py`) which holds every packet for as long as the link's rate and latency say. The coordinator is the
calling process, in a namespace of its own too; its links are fast. Nothing touches the machine's own network, and the
kernel removes all of it with the last process, however that ends.

A slow device computes at full speed and then sleeps for the rest: see `emulated_worker.py`, also for why the quotas
of control groups do not do here. Memory is what a device *says*; no limit holds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import shardnet
from shardnet.cluster.local_workers import worker_environment
from shardnet.progress import silent
from shardnet.transport import serve_door

HERE = Path(__file__).parent
ADDRESS = "10.77.0.{}"
"""The coordinator is 1, the devices follow."""
INTERFACE = "emulated"
_MARK = "SHARDNET_EMULATED"


@dataclass(frozen=True)
class EmulatedDevice:
    """A device to start."""

    name: str
    slowdown: float = 1.0
    """So many times as long as this machine takes to compute."""
    memory_bytes: int = 2 * 2**30
    """What it says that it has free."""


@dataclass(frozen=True)
class EmulatedLink:
    """What both directions between two devices give."""

    bits_per_s: float
    latency_s: float = 0.0
    """One way."""


def in_own_network() -> bool:
    """Whether this process may make clusters: it is in a network namespace that `enter_own_network` has made."""
    return _MARK in os.environ


def why_not() -> str | None:
    """Why no cluster can be emulated here; None where one can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "emulated devices need root, for their network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "emulated devices need /dev/net/tun, which this kernel does not have"
    if missing := [program for program in ("unshare", "ip") if shutil.which(program) is None]:
        return f"emulated devices need the program {missing[0]} (packages util-linux and iproute2)"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return f"no network namespace can be made here: {tried.stderr.strip()}" if tried.returncode else None


def enter_own_network() -> int:
    """Run this program again with the same arguments in a network namespace of its own; returns its exit code."""
    command = 'ip link set lo up && exec "$0" "$@"'
    environment = {**os.environ, _MARK: "1", "TP_SOCKET_IFNAME": INTERFACE, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", command, sys.executable, *sys.argv], env=environment
    ).returncode


class EmulatedCluster:
    """Starts devices and their network; gives the `shardnet.Cluster` that coordinates them. A context manager.

    Args:
        devices: two or more; their names are sorted, and the first is the source.
        link: of all pairs that `links` does not name.
        links: (name, name) -> link, both directions.
    """

    def __init__(
        self,
        devices: Sequence[EmulatedDevice],
        link: EmulatedLink,
        links: dict[tuple[str, str], EmulatedLink] | None = None,
    ) -> None:
        self.devices = sorted(devices, key=lambda device: device.name)
        self._link = link
        self._links = links or {}
        self._resources = ExitStack()

    def __enter__(self) -> shardnet.Cluster:
        with ExitStack() as resources:
            logs = resources.enter_context(tempfile.TemporaryDirectory(prefix="shardnet-emulated-"))
            network = self._start(logs)
            resources.callback(_end, network)
            assert network.stdout is not None and network.stdin is not None
            if network.stdout.readline().strip() != "network":
                raise RuntimeError(f"the emulated network did not start: {Path(logs, 'network.log').read_text()}")
            door = resources.enter_context(serve_door(ADDRESS.format(1), beyond_loopback=True))
            network.stdin.write(f"{door.endpoint}\n")
            network.stdin.flush()
            cluster = shardnet.Cluster.connect(door.endpoint, num_devices=len(self.devices), progress=silent)
            resources.enter_context(cluster)
            self._resources = resources.pop_all()
            return cluster

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _start(self, logs: str) -> subprocess.Popen[str]:
        settings = {
            "interface": INTERFACE,
            "address": ADDRESS,
            "logs": logs,
            "devices": [asdict(device) for device in self.devices],
            "links": [
                [self._between(one.name, other.name) for other in self.devices if other.name != one.name]
                for one in self.devices
            ],
        }
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(Path(logs, "network.log"), "wb") as log:
            return subprocess.Popen(
                [sys.executable, str(HERE / "emulated_network.py"), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**worker_environment(os.environ, 1), "PYTHONPATH": path},
                start_new_session=True,
            )

    def _between(self, one: str, other: str) -> dict[str, object]:
        link = self._links.get((one, other)) or self._links.get((other, one)) or self._link
        return {"to": other, **asdict(link)}


def _end(network: subprocess.Popen[str]) -> None:
    """All device processes end with their standard input, which they share with the network's process."""
    assert network.stdin is not None and network.stdout is not None
    network.stdin.close()
    try:
        network.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(network.pid, 9)
        network.wait()
    network.stdout.close()
