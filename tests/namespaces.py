"""Hosts as network namespaces on one switch, each with an address and a loopback of its own. Needs root.

A host may be behind a router of its own, as at home: what it dials goes out under the router's address (masquerade),
and nobody dials it. All routers have the same network behind them, so that hosts there have the same address.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

SWITCH = "switch"
ADDRESS = "10.78.0.{}"
INSIDE = "192.168.178.{}"
"""Behind every router: the router is 1, the host 2."""
ROUTER = """
table ip router {
  chain out { type nat hook postrouting priority 100; oifname "net" masquerade; }
  chain in { type filter hook input priority 0; policy drop; ct state established,related accept; }
  chain through {
    type filter hook forward priority 0; policy drop
    ct state established,related accept
    iifname "inside" accept
  }
}
"""
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


def why_no_routers() -> str | None:
    """Why no host can be behind a router here; None where it can."""
    return None if shutil.which("nft") else "hosts behind routers need the program nft (package nftables)"


class Namespaces:
    """A context manager: the kernel removes all of it behind it.

    Args:
        names: of the hosts, which have the addresses 10.78.0.1, 10.78.0.2 and so on.
        behind_routers: those of them whose address is that of a router.
    """

    def __init__(self, names: Sequence[str], behind_routers: Collection[str] = ()) -> None:
        self._mark = f"sn{os.getpid()}"
        self.names = tuple(names)
        self._routers = {name: f"{name}-router" for name in behind_routers}
        self._ends = ExitStack()

    def __enter__(self) -> Namespaces:
        with ExitStack() as ends:
            self._add(SWITCH, ends)
            _run("ip", "-n", self._space(SWITCH), "link", "add", "name", "bridge0", "type", "bridge")
            _run("ip", "-n", self._space(SWITCH), "link", "set", "bridge0", "up")
            for name in self.names:
                self._add(name, ends)
                if name in self._routers:
                    self._add(self._routers[name], ends)
                    self._put_behind_router(name)
                self._plug_in(name)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._ends.close()

    def address(self, name: str) -> str:
        """Of a host, or of its router, at the beginning."""
        return ADDRESS.format(self.names.index(name) + 1)

    def is_behind_router(self, name: str) -> bool:
        """Whether a host is."""
        return name in self._routers

    def command(self, name: str, *command: str) -> list[str]:
        """A command as it runs on a host."""
        return ["ip", "netns", "exec", self._space(name), *command]

    def unplug(self, name: str) -> None:
        """Cut a host off, without a word to anybody."""
        _run("ip", "-n", self._space(SWITCH), "link", "set", f"to-{name}", "down")

    def plug_in_again(self, name: str) -> None:
        """Let it be reached again."""
        _run("ip", "-n", self._space(SWITCH), "link", "set", f"to-{name}", "up")

    def silence(self, name: str) -> None:
        """Cut a host off as a router does that has failed further away: the host's own interface has its carrier."""
        _run("ip", "-n", self._space(SWITCH), "link", "set", f"to-{name}", "nomaster")

    def let_through_again(self, name: str) -> None:
        """Let it be reached again."""
        _run("ip", "-n", self._space(SWITCH), "link", "set", f"to-{name}", "master", "bridge0")

    def move(self, name: str, address: str) -> None:
        """Give a host, or its router, another address, "10.78.0.99"."""
        here = self._at_switch(name)
        _run("ip", "-n", here, "addr", "flush", "dev", "net")
        _run("ip", "-n", here, "addr", "add", f"{address}/24", "dev", "net")

    def processes(self, name: str) -> list[int]:
        """All of a host."""
        told = subprocess.run(["ip", "netns", "pids", self._space(name)], capture_output=True, text=True, check=True)
        return [int(pid) for pid in told.stdout.split()]

    def suspend(self, name: str) -> None:
        """Nothing runs on a host any more."""
        for pid in self.processes(name):
            os.kill(pid, signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """All goes on."""
        for pid in self.processes(name):
            os.kill(pid, signal.SIGCONT)

    def capture(self) -> Capture:
        """What crosses the switch from now on."""
        return Capture(self._space(SWITCH), [f"to-{name}" for name in self.names])

    def capture_within(self, name: str) -> Capture:
        """What processes of a host say to each other over its loopback from now on."""
        return Capture(self._space(name), ["lo"])

    def _add(self, name: str, ends: ExitStack) -> None:
        _run("ip", "netns", "add", self._space(name))
        ends.callback(subprocess.run, ["ip", "netns", "del", self._space(name)], check=False)
        _run("ip", "-n", self._space(name), "link", "set", "lo", "up")

    def _plug_in(self, name: str) -> None:
        here, switch = self._at_switch(name), self._space(SWITCH)
        _run("ip", "-n", here, "link", "add", "net", "type", "veth", "peer", "name", f"to-{name}", "netns", switch)
        _run("ip", "-n", switch, "link", "set", f"to-{name}", "master", "bridge0", "up")
        _run("ip", "-n", here, "addr", "add", f"{self.address(name)}/24", "dev", "net")
        _run("ip", "-n", here, "link", "set", "net", "up")

    def _put_behind_router(self, name: str) -> None:
        router, host = self._space(self._routers[name]), self._space(name)
        _run("ip", "-n", router, "link", "add", "inside", "type", "veth", "peer", "name", "net", "netns", host)
        for space, interface, number in ((router, "inside", 1), (host, "net", 2)):
            _run("ip", "-n", space, "addr", "add", f"{INSIDE.format(number)}/24", "dev", interface)
            _run("ip", "-n", space, "link", "set", interface, "up")
        _run("ip", "-n", host, "route", "add", "default", "via", INSIDE.format(1))
        forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
        _run(*self.command(self._routers[name], "sh", "-c", forward))
        subprocess.run(self.command(self._routers[name], "nft", "-f", "-"), input=ROUTER, text=True, check=True)

    def _at_switch(self, name: str) -> str:
        """What is plugged in for a host: itself, or its router."""
        return self._space(self._routers.get(name, name))

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
