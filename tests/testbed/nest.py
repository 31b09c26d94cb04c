"""The process behind a bed: forks devices when it is told to, says when they end, and is the switch between them.

Started by `bed.py`, with `Settings` in JSON. Says "ready" and what it can emulate, and reads commands, a JSON list in
each line: ["start", DEVICE, ENDPOINT of the cluster's door], ["slow", DEVICE, FACTOR],
["slow link", FROM, TO, FACTOR], ["cut", FROM, TO], ["mend", FROM, TO]. Tells "DEVICE started PID" and "DEVICE ended
CODE" (minus the signal's number where it was killed). Ends when its standard input closes, and all devices with it: by
another pipe, and those that are frozen by SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardnet.device import process as worker
from shardnet.simulator.script import COORDINATOR
from testbed.memory_group import MemoryGroup
from testbed.switch import Line, Switch, enter, make_interface, make_namespace

COORDINATOR_LINE = (1e9 / 8, 0.0, 0.0)
"""Of the coordinator's links: bytes per second, latency in s, loss."""


@dataclass(frozen=True)
class Settings:
    """What the process is told."""

    pipe: int
    """Its reading end is the devices': they end when it closes."""
    logs: str
    cache: str | None
    """The devices' cache folder."""
    are_apart: bool
    """Each has a folder of its own in that, and finds no copy of a checkpoint of the others."""
    address: str | None
    """With a place for the last number: 1 is the coordinator, the devices follow. None on loopback."""
    interface: str
    devices: list[dict[str, Any]]
    """Name, slowdown, memory_bytes."""
    are_limited: bool
    """To that memory."""
    roads: list[tuple[str, str, float, float, float]]
    """From, to, bytes per second, latency in s, share of packets that is lost."""


def main() -> None:
    """Build, fork, switch."""
    settings = Settings(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.import_all()
    with Nest(settings) as nest:
        print("ready", json.dumps(nest.emulated), flush=True)
        nest.run()


class Nest:
    """Devices that can be told to start, and the links between them. A context manager: the devices end with it."""

    def __init__(self, settings: Settings) -> None:
        from testbed.device import Slowdown  # which brings torch, and `bed.py` needs of this file `Settings` alone

        self._settings = settings
        self._numbers = {device["name"]: index + 2 for index, device in enumerate(settings.devices)}
        self._numbers[COORDINATOR] = 1
        self._devices = {device["name"]: device for device in settings.devices}
        self._paces = {name: Slowdown(device["slowdown"]) for name, device in self._devices.items()}
        self._names: dict[int, str] = {}
        """By process."""
        self._namespaces: dict[str, int] = {}
        self._groups: dict[str, MemoryGroup] = {}
        self._switch = Switch({}, {})
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._line = b""
        if settings.address is not None:
            self._build(settings.address)
        if settings.are_limited:
            self._limit_memory()

    @property
    def emulated(self) -> list[str]:
        """What is, beside slowness, freezing and death."""
        return [*(["links"] if self._namespaces else []), *(["memory"] if self._groups else [])]

    def run(self) -> None:
        """Until standard input closes."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        with selectors.SelectSelector() as selector:  # epoll waits whole milliseconds: links would be as much slower
            for number, interface in self._switch.interfaces.items():
                selector.register(interface, selectors.EVENT_READ, number)
            for source in (0, self._woken):
                selector.register(source, selectors.EVENT_READ, 0)
            while True:
                for key, _ in selector.select(self._switch.wait_s()):
                    if key.data:
                        self._switch.take(key.data)
                    elif key.fileobj is self._woken:
                        self._woken.recv(1024)
                        self._bury()
                    elif not self._read():
                        return
                self._switch.deliver()

    def __enter__(self) -> Nest:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._names:
            os.kill(pid, signal.SIGKILL)
        for pid in self._names:
            os.waitpid(pid, 0)
        for group in self._groups.values():
            group.remove()

    def _build(self, address: str) -> None:
        """A namespace for each device, also for those that join later. The coordinator is in the first one."""
        interface = self._settings.interface
        self._switch.interfaces[1] = make_interface(interface, address.format(1))
        for name in self._devices:
            number = self._numbers[name]
            self._switch.interfaces[number], self._namespaces[name] = make_namespace(interface, address.format(number))
            for way in ((1, number), (number, 1)):
                self._switch.lines[way] = Line(*COORDINATOR_LINE)
        for source, target, *values in self._settings.roads:
            self._switch.lines[self._numbers[source], self._numbers[target]] = Line(*values)

    def _limit_memory(self) -> None:
        limited = {name: device["memory_bytes"] for name, device in self._devices.items() if device["memory_bytes"]}
        with contextlib.suppress(OSError):  # no such control groups here: the devices only say what they have
            for name, num_bytes in limited.items():
                self._groups[name] = MemoryGroup(f"shardnet-bed-{os.getpid()}-{name}", num_bytes)

    def _read(self) -> bool:
        """Do what has come; False where no more will."""
        received = os.read(0, 65536)
        *lines, self._line = (self._line + received).split(b"\n")
        for line in lines:
            what, *arguments = json.loads(line)
            if what == "start":
                self._start(*arguments)
            elif what == "slow":
                self._slow(*arguments)
            else:
                self._change_line(what, *arguments)
        return bool(received)

    def _slow(self, name: str, factor: float) -> None:
        self._paces[name].factor = self._devices[name]["slowdown"] * factor

    def _change_line(self, what: str, source: str, target: str, factor: float = 1.0) -> None:
        line = self._switch.lines[self._numbers[source], self._numbers[target]]
        if what == "slow link":
            line.slowdown = factor
        else:
            line.is_cut = what == "cut"

    def _bury(self) -> None:
        for pid in list(self._names):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                print(self._names.pop(pid), "ended", os.waitstatus_to_exitcode(status), flush=True)

    def _start(self, name: str, endpoint: str) -> None:
        if name in self._namespaces:
            enter(self._namespaces[name])
        pid = os.fork()
        if pid:
            self._names[pid] = name
            print(name, "started", pid, flush=True)
            return
        code = 1
        try:
            self._let_go()
            log = os.open(Path(self._settings.logs, f"{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if name in self._groups:
                self._groups[name].enter()
            code = self._serve(name, endpoint)
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _let_go(self) -> None:
        """In a forked device: nothing of the nest's stays open."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for file in (*self._switch.interfaces.values(), *self._namespaces.values()):
            os.close(file)
        self._woken.close()
        self._waker.close()

    def _serve(self, name: str, endpoint: str) -> int:
        from testbed.device import EmulatedWorker

        device, settings = self._devices[name], self._settings
        host = f"emulated-{name}" if self._namespaces else None
        cache_dir = None if settings.cache is None else Path(settings.cache)
        if settings.are_apart:
            assert cache_dir is not None, "somewhere on this machine"
            cache_dir = cache_dir / name
            cache_dir.mkdir(exist_ok=True)
            tempfile.tempdir = str(cache_dir)
        worker.end_with(settings.pipe)
        return worker.serve_and_report(
            endpoint,
            name,
            1,
            make_worker=lambda: EmulatedWorker(
                self._paces[name],
                device["slowdown"],
                device["memory_bytes"],
                settings.are_limited,
                host,
                cache_dir,
            ),
        )


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is left to be tidied up, and Python would take a second or more over torch
