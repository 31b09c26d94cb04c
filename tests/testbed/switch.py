"""The network between emulated devices: a namespace for each, and a switch in user space that carries their packets.

A packet from a to b leaves when those before it have left and its bytes have passed at the link's rate, and arrives one
latency later. Queues do not overflow: TCP's windows bound them. Some are lost at random where a link says so, and all
of them where it is cut. Needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import struct
import subprocess
import time

MTU = 9000
_NEW_NETWORK = 0x40000000
_SET_INTERFACE, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000

Way = tuple[int, int]
"""From, to: by the last number of their addresses."""


def make_namespace(interface: str, address: str) -> tuple[int, int]:
    """Move this process into a new network namespace with one interface; returns it, and the namespace, as files."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no new network namespace")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return make_interface(interface, address), os.open("/proc/self/ns/net", os.O_RDONLY)


def enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def make_interface(interface: str, address: str) -> int:
    """A TUN interface in the present namespace: what the kernel routes to it can be read here, packet by packet."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _SET_INTERFACE, struct.pack("16sH", interface.encode(), _TUN | _NO_HEADER))
    for command in (f"addr add {address}/24 dev {interface}", f"link set {interface} mtu {MTU} txqueuelen 5000 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


class Line:
    """One way between two devices."""

    def __init__(self, bytes_per_s: float, latency_s: float, loss: float) -> None:
        self.slowdown = 1.0
        self.is_cut = False
        self._bytes_per_s, self._latency_s, self._loss = bytes_per_s, latency_s, loss
        self._free_at_s = 0.0

    def loses(self) -> bool:
        return self.is_cut or (self._loss > 0 and random.random() < self._loss)

    def arrives_s(self, num_bytes: int) -> float:
        """When a packet that comes now will be there."""
        passes_s = num_bytes * self.slowdown / self._bytes_per_s
        self._free_at_s = max(time.monotonic(), self._free_at_s) + passes_s
        return self._free_at_s + self._latency_s * self.slowdown


class Switch:
    """Carries packets between interfaces, each at its time. Never waits: whoever has it says when it is to look."""

    def __init__(self, interfaces: dict[int, int], lines: dict[Way, Line]) -> None:
        self.interfaces = interfaces
        """By the last numbers of their addresses."""
        self.lines = lines
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._num_packets = 0

    def wait_s(self) -> float | None:
        """How long nothing is due; None while nothing is under way."""
        return max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None

    def take(self, here: int) -> None:
        """Take all packets that a device has sent."""
        while True:
            try:
                packet = os.read(self.interfaces[here], 65536)
            except BlockingIOError:
                return
            there = packet[19]  # the last number of an IPv4 destination
            line = self.lines.get((here, there))
            if packet[0] >> 4 != 4 or line is None or line.loses():
                continue
            self._num_packets += 1
            heapq.heappush(self._under_way, (line.arrives_s(len(packet)), self._num_packets, there, packet))

    def deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, there, packet = heapq.heappop(self._under_way)
            try:
                os.write(self.interfaces[there], packet)
            except BlockingIOError:
                pass  # lost, as packets may be
            except OSError:
                return  # that device is gone
