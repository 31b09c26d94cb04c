"""Hosts as network namespaces on one switch, each with an address and a loopback of its own. Needs root."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

SWITCH = "switch"
ADDRESS = "10.78.0.{}"
_ALL_FRAMES = 3
_MOST_FRAME_BYTES = 2**16


def why_not() -> str | None:
    """Why there can be no such hosts here; None where there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "hosts as network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN)"
    if shutil.which("ip") is None:
        return "hosts as network namespaces need the program ip (package iproute2)"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return f"no network namespace can be made here: {tried.stderr.strip()}" if tried.returncode else None


class Namespaces:
    """A context manager: the kernel removes all of it behind it.

    Args:
        names: of the hosts, which have the addresses 10.78.0.1, 10.78.0.2 and so on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._mark = f"sn{os.getpid()}"
        self.names = tuple(names)
        self._ends = ExitStack()

    def __enter__(self) -> Namespaces:
        with ExitStack() as ends:
            self._add(SWITCH, ends)
            _run("ip", "-n", self._space(SWITCH), "link", "add", "name", "bridge0", "type", "bridge")
            _run("ip", "-n", self._space(SWITCH), "link", "set", "bridge0", "up")
            for name in self.names:
                self._add(name, ends)
                self._plug_in(name)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._ends.close()

    def address(self, name: str) -> str:
        """Of a host."""
        return ADDRESS.format(self.names.index(name) + 1)

    def command(self, name: str, *command: str) -> list[str]:
        """A command as it runs on a host."""
        return ["ip", "netns", "exec", self._space(name), *command]

    def unplug(self, name: str) -> None:
        """Cut a host off, without a word to anybody."""
        _run("ip", "-n", self._space(SWITCH), "link", "set", f"to-{name}", "down")

    def plug_in_again(self, name: str) -> None:
        """Let it be reached again."""
        _run("ip", "-n", self._space(SWITCH), "link", "set", f"to-{name}", "up")

    def move(self, name: str, address: str) -> None:
        """Give a host another address, "10.78.0.99"."""
        _run("ip", "-n", self._space(name), "addr", "flush", "dev", "net")
        _run("ip", "-n", self._space(name), "addr", "add", f"{address}/24", "dev", "net")

    def capture(self) -> Capture:
        """What crosses the switch from now on."""
        return Capture(self._space(SWITCH), [f"to-{name}" for name in self.names])

    def _add(self, name: str, ends: ExitStack) -> None:
        _run("ip", "netns", "add", self._space(name))
        ends.callback(subprocess.run, ["ip", "netns", "del", self._space(name)], check=False)
        _run("ip", "-n", self._space(name), "link", "set", "lo", "up")

    def _plug_in(self, name: str) -> None:
        here, switch = self._space(name), self._space(SWITCH)
        _run("ip", "-n", here, "link", "add", "net", "type", "veth", "peer", "name", f"to-{name}", "netns", switch)
        _run("ip", "-n", switch, "link", "set", f"to-{name}", "master", "bridge0", "up")
        _run("ip", "-n", here, "addr", "add", f"{self.address(name)}/24", "dev", "net")
        _run("ip", "-n", here, "link", "set", "net", "up")

    def _space(self, name: str) -> str:
        return f"{self._mark}-{name}"


class Capture:
    """Takes every frame that crosses a switch, until it is closed."""

    def __init__(self, space: str, interfaces: Sequence[str]) -> None:
        self._frames: list[bytes] = []
        self._sockets = [_raw_socket(space, interface) for interface in interfaces]
        self._threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in self._sockets]
        for thread in self._threads:
            thread.start()

    def close(self) -> bytes:
        """All of it, one frame behind the other."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
        return b"".join(self._frames)

    def _run(self, raw: socket.socket) -> None:
        raw.settimeout(0.2)
        while raw.fileno() >= 0:
            try:
                self._frames.append(raw.recv(_MOST_FRAME_BYTES))
            except TimeoutError:
                continue
            except OSError:
                return


def _raw_socket(space: str, interface: str) -> socket.socket:
    """Made in another namespace, by a thread that goes there: the thread ends with it."""
    made: list[socket.socket] = []

    def make() -> None:
        with open(f"/run/netns/{space}") as there:
            assert ctypes.CDLL(None).setns(there.fileno(), 0) == 0
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
        raw.bind((interface, 0))
        made.append(raw)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
