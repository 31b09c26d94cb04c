"""Emulated devices behind emulated links, as processes of this machine, and the cluster that coordinates them.

    if not in_own_network(): sys.exit(enter_own_network())     # once, at the start of a program that is to have links
    with Bed(devices, roads) as bed: bed.cluster.load(...)

With root each device is a process in a network namespace of its own, and what they send each other crosses a switch in
user space (`switch.py`) which holds every packet for as long as the link's rate and latency say. The coordinator is the
calling process, in a namespace of its own too; its links are fast. Nothing touches the machine's own network, and the
kernel removes all of it with the last process, however that ends. In a process that has no network of its own the
devices are processes on loopback: they are slow, freeze and die, but all links are as fast as this machine.

A slow device computes at full speed and then sleeps for the rest: see `device.py`, also for why the quotas of control
groups do not do here. Memory is what a device keeps to; where the system allows it, a control group holds it besides.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import shardnet
from shardnet.cluster.comings import HAS_ENDED
from shardnet.cluster.local_workers import inherited_pipe, worker_environment
from shardnet.coordinator.attendance import Attendance
from shardnet.coordinator.events import ClusterEvent
from shardnet.process.threads import on_thread
from shardnet.simulator.events import Event
from shardnet.simulator.script import Road, ScriptDevice
from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.source_messages import COORDINATOR
from testbed.nest import Settings

TESTS = Path(__file__).parent.parent
NEST_COMMAND: Sequence[str] = (sys.executable, "-m", "testbed.nest")
ADDRESS = "10.77.0.{}"
"""The coordinator is 1, the devices follow."""
INTERFACE = "emulated"
START_S = 60.0
LEAVE_S = 2.0
_MARK = "SHARDNET_EMULATED"
_NEWS = re.compile(r"(?P<name>\S+) (?P<event>started|ended) (?P<number>-?\d+)")


def in_own_network() -> bool:
    """Whether links can be emulated: this process is in a network namespace that `enter_own_network` has made."""
    return _MARK in os.environ


def why_not() -> str | None:
    """Why no links can be emulated here; None where they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "emulated links need root (CAP_SYS_ADMIN and CAP_NET_ADMIN, for network namespaces)"
    if not os.path.exists("/dev/net/tun"):
        return "emulated links need /dev/net/tun, which this kernel does not have"
    if missing := [program for program in ("unshare", "ip") if shutil.which(program) is None]:
        return f"emulated links need the program {missing[0]} (packages util-linux and iproute2)"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return (
        f"emulated links need CAP_SYS_ADMIN to make a network namespace: {tried.stderr.strip()}"
        if tried.returncode
        else None
    )


def enter_own_network(command: Sequence[str] = (sys.executable, *sys.argv)) -> int:
    """Run this program again with the same arguments in a network namespace of its own; returns its exit code."""
    environment = {**os.environ, _MARK: "1", "TP_SOCKET_IFNAME": INTERFACE, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    shell = 'ip link set lo up && exec "$0" "$@"'
    return subprocess.run(["unshare", "--net", "sh", "-c", shell, *command], env=environment).returncode


class Bed:
    """Starts devices and their network, and strikes them. A context manager: nothing outlives it.

    Args:
        devices: their names come in this order, which is that of a split.
        roads: (from, to) -> what that way gives, of all pairs.
        late: names of devices that are not there at the start.
        are_limited: to their memory. False: they only say that they have no more, so that several models, each of which
            fits, can be there side by side.
        cache_dir: of the devices; None for the user's cache folder.
        are_apart: each device has a folder of its own in that, and has to fetch weights.
        tell: told who has joined, left or was lost, on a thread that must not wait.
    """

    cluster: shardnet.Cluster

    def __init__(
        self,
        devices: Sequence[ScriptDevice],
        roads: Mapping[tuple[str, str], Road],
        *,
        late: Sequence[str] = (),
        are_limited: bool = True,
        cache_dir: Path | None = None,
        are_apart: bool = False,
        tell: Callable[[ClusterEvent], object] = lambda event: None,
    ) -> None:
        self.emulated: list[str] = []
        """What is, beside slowness, freezing and death: "links", "memory"."""
        self._devices = {device.name: device for device in devices}
        self._roads = roads
        self._late = tuple(late)
        self._are_limited = are_limited
        self._cache_dir = cache_dir
        self._are_apart = are_apart
        self._tell = tell
        self._pids: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._nest: subprocess.Popen[str]
        self._saying = threading.Lock()
        """Held while a command is written: several threads strike."""
        self._resources = ExitStack()

    def __enter__(self) -> Bed:
        with ExitStack() as resources:
            logs = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="shardnet-bed-")))
            pipe, end = inherited_pipe()
            resources.callback(os.close, end)
            self._nest = self._hatch(logs, pipe)
            resources.callback(self._end)
            os.close(pipe)
            self._meet(resources, logs)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the devices that live."""
        return dict(self._pids)

    def strike(self, event: Event) -> bool:
        """Make it happen. False where that cannot be emulated here, and nothing was done. Does not wait."""
        if event.ways:
            if "links" not in self.emulated:
                return False
            for way in event.ways:
                self._say(*(["slow link", *way, event.factor] if event.kind == "slow" else [event.kind, *way]))
        elif event.kind in _SIGNALS:
            with suppress(KeyError, ProcessLookupError):  # it has ended by itself
                os.kill(self._pids[event.device], _SIGNALS[event.kind])
        elif event.kind == "slow":
            self.slow(event.device, event.factor)
        elif event.kind == "join":
            self._say("start", event.device, self._endpoint)
        else:
            self._attendance.goodbye(event.device)
            on_thread("testbed-leave", partial(self._let_leave, event.device))
        return True

    def slow(self, device: str, factor: float) -> None:
        """From now on it takes so many times as long as it was described."""
        self._say("slow", device, factor)

    def _let_leave(self, device: str) -> None:
        """As `shardnet leave` has it: others take over first."""
        self.cluster.drain(device)
        self._transport.post(device, "leave", timeout_s=LEAVE_S)

    def _hatch(self, logs: Path, pipe: int) -> subprocess.Popen[str]:
        described = [
            {"name": each.name, "slowdown": each.slowdown, "memory_bytes": each.memory_bytes}
            for each in self._devices.values()
        ]
        settings = Settings(
            pipe=pipe,
            logs=str(logs),
            cache=None if self._cache_dir is None else str(self._cache_dir),
            are_apart=self._are_apart,
            address=ADDRESS if in_own_network() else None,
            interface=INTERFACE,
            devices=described,
            are_limited=self._are_limited,
            roads=[(*ends, road.bytes_per_s, road.latency_s, road.loss) for ends, road in self._roads.items()],
        )
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(logs / "nest.log", "wb") as log:
            return subprocess.Popen(
                [*NEST_COMMAND, json.dumps(asdict(settings))],
                pass_fds=(pipe,),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**worker_environment(os.environ, 1), "PYTHONPATH": path},
                start_new_session=True,
            )

    def _meet(self, resources: ExitStack, logs: Path) -> None:
        """Wait until the devices that are there at the start have joined, and coordinate them."""
        assert self._nest.stdout is not None
        word, _, emulated = self._nest.stdout.readline().partition(" ")
        if word != "ready":
            raise RuntimeError(f"the bed's processes did not start: {(logs / 'nest.log').read_text()}")
        self.emulated = json.loads(emulated)
        threading.Thread(target=self._listen, name="testbed-nest", daemon=True).start()
        host = ADDRESS.format(1) if in_own_network() else None
        door = resources.enter_context(serve_door(host, beyond_loopback=host is not None))
        self._endpoint = door.endpoint
        present = [name for name in self._devices if name not in self._late]
        for name in present:
            self._say("start", name, door.endpoint)
        self._transport = resources.enter_context(RpcTransport.join(door.endpoint, COORDINATOR, timeout_s=START_S))
        self.cluster = resources.enter_context(shardnet.Cluster(self._transport, (), ExitStack(), None))
        self._attendance = Attendance(
            self._transport, self.cluster, self._tell, lambda: None, how_it_ended=self._how_it_ended
        )
        self._transport.expose("goodbye", self._attendance.goodbye)
        self._wait_for(present, logs)

    def _wait_for(self, names: Sequence[str], logs: Path) -> None:
        deadline_s = time.monotonic() + START_S
        while missing := set(names).difference(self.cluster.devices):
            ended = sorted(missing & set(self._codes))
            if ended or time.monotonic() > deadline_s:
                name = ended[0] if ended else min(missing)
                log = logs / f"{name}.log"
                raise RuntimeError(f"{name} did not join: {log.read_text() if log.exists() else ''}")
            time.sleep(0.01)
        self.cluster.devices = tuple(names)  # in this order they get their shards

    def _listen(self) -> None:
        assert self._nest.stdout is not None
        for line in self._nest.stdout:
            news = _NEWS.fullmatch(line.rstrip())
            if news is None:  # a library has printed it
                continue
            name, number = news["name"], int(news["number"])
            if news["event"] == "started":
                self._codes.pop(name, None)
                self._pids[name] = number
            else:
                self._pids.pop(name, None)
                self._codes[name] = number

    def _how_it_ended(self, device: str) -> str:
        code = self._codes.get(device)
        return f"its process was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else HAS_ENDED

    def _say(self, *command: str | float) -> None:
        assert self._nest.stdin is not None
        with self._saying:
            self._nest.stdin.write(f"{json.dumps(command)}\n")
            self._nest.stdin.flush()

    def _end(self) -> None:
        """The process ends with its standard input, and kills what it has forked."""
        assert self._nest.stdin is not None and self._nest.stdout is not None
        with suppress(BrokenPipeError):
            self._nest.stdin.close()
        try:
            self._nest.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._nest.pid, signal.SIGKILL)
            self._nest.wait()


_SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
