"""The process behind an emulated cluster: makes a network namespace for each device, forks the devices, then switches.

Started by `emulated.py`. Says "network" when the interfaces stand, reads the endpoint of the cluster's door, forks the
devices, and is from then on the switch between them: a packet from a to b leaves when those before it have left and
its bytes have passed at the link's rate, and arrives one latency later. Queues do not overflow: TCP's windows bound
them. Ends when its standard input closes.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shardnet.device import process as worker

MTU = 9000
FAST = {"bits_per_s": 1e9, "latency_s": 0.0}
"""Of the coordinator's links."""
_NEW_NETWORK = 0x40000000
_SET_INTERFACE, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000


def main() -> int:
    """Build, fork, switch. The exit code is 0 when asked to end."""
    settings = json.loads(sys.argv[1])
    worker.import_all()
    interfaces = [make_interface(settings, 1)]
    namespaces = []
    for index in range(len(settings["devices"])):
        interfaces.append(make_namespace(settings, index + 2))
        namespaces.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    print("network", flush=True)
    endpoint = sys.stdin.readline().strip()
    for device, namespace in zip(settings["devices"], namespaces, strict=True):
        enter(namespace)
        fork_device(device, endpoint, settings["logs"], interfaces)
    Switch(interfaces, rates_of(settings)).run()
    return 0


def make_namespace(settings: dict[str, Any], number: int) -> int:
    """Move this process into a new network namespace with one interface."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no new network namespace")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return make_interface(settings, number)


def enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def make_interface(settings: dict[str, Any], number: int) -> int:
    """A TUN interface in the present namespace: what the kernel routes to it can be read here, packet by packet."""
    name = settings["interface"]
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _SET_INTERFACE, struct.pack("16sH", name.encode(), _TUN | _NO_HEADER))
    address = settings["address"].format(number)
    for command in (f"addr add {address}/24 dev {name}", f"link set {name} mtu {MTU} txqueuelen 5000 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def fork_device(device: dict[str, Any], endpoint: str, logs: str, interfaces: list[int]) -> None:
    """Fork a device, which stays in the present namespace and ends with the standard input that it shares with us."""
    if os.fork():
        return
    code = 1
    try:
        for interface in interfaces:
            os.close(interface)
        log = os.open(Path(logs, f"{device['name']}.log"), os.O_WRONLY | os.O_CREAT, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = serve(device, endpoint, logs)
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve(device: dict[str, Any], endpoint: str, logs: str) -> int:
    """As `shardnet.device.process.serve`, for an emulated device."""
    import torch
    from emulated_worker import EmulatedWorker

    from shardnet.transport import RpcTransport

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.end_with(sys.stdin.fileno())
    torch.set_num_threads(1)
    with EmulatedWorker(device["slowdown"], device["memory_bytes"], Path(logs)) as here:
        here.warm_up()
        with RpcTransport.join(endpoint, device["name"], timeout_s=worker.JOIN_S, prepare=here.attach):
            here.left.wait()
    return 0


def rates_of(settings: dict[str, Any]) -> dict[tuple[int, int], tuple[float, float]]:
    """(from, to) -> (bytes per second, latency in s), by the last number of the addresses."""
    number = {device["name"]: index + 2 for index, device in enumerate(settings["devices"])}
    rates = {}
    for device, links in zip(settings["devices"], settings["links"], strict=True):
        here = number[device["name"]]
        rates[1, here] = rates[here, 1] = FAST["bits_per_s"] / 8, FAST["latency_s"]
        for link in links:
            rates[here, number[link["to"]]] = link["bits_per_s"] / 8, link["latency_s"]
    return rates


class Switch:
    """Carries packets between the interfaces, each at its time."""

    def __init__(self, interfaces: list[int], rates: dict[tuple[int, int], tuple[float, float]]) -> None:
        self._interfaces = {index + 1: interface for index, interface in enumerate(interfaces)}
        self._rates = rates
        self._free_at: dict[tuple[int, int], float] = {}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._num_packets = 0

    def run(self) -> None:
        """Until standard input closes."""
        with selectors.DefaultSelector() as selector:
            for number, interface in self._interfaces.items():
                selector.register(interface, selectors.EVENT_READ, number)
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ, 0)
            while True:
                wait_s = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None
                for key, _ in selector.select(wait_s):
                    if key.data == 0:
                        if not os.read(sys.stdin.fileno(), 1024):
                            return
                    else:
                        self._take(key.data)
                self._deliver()

    def _take(self, here: int) -> None:
        """Take all packets that a device has sent."""
        while True:
            try:
                packet = os.read(self._interfaces[here], 65536)
            except BlockingIOError:
                return
            there = packet[19]  # the last number of an IPv4 destination
            if packet[0] >> 4 != 4 or (here, there) not in self._rates:
                continue
            bytes_per_s, latency_s = self._rates[here, there]
            way = here, there
            sent_at = max(time.monotonic(), self._free_at.get(way, 0.0)) + len(packet) / bytes_per_s
            self._free_at[way] = sent_at
            self._num_packets += 1
            heapq.heappush(self._under_way, (sent_at + latency_s, self._num_packets, there, packet))

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, there, packet = heapq.heappop(self._under_way)
            try:
                os.write(self._interfaces[there], packet)
            except BlockingIOError:
                pass  # lost, as packets may be
            except OSError:
                return  # that device is gone


if __name__ == "__main__":
    sys.exit(main())
