"""Two processes with stock `torch.distributed.rpc` and nothing of shardnet: what a hop costs at the least.

    python tests/bench/bare_rpc.py           (a table of all ways, in turns)
    python tests/bench/bare_rpc.py PORT      (rank 0; starts rank 1 itself)

A hop goes from just before it is sent to the first line of what receives it. Before it, the sender reads as many bytes
of weights as a stage does, and the receiver did so before: a hop in a ring finds cold caches, and so does this. The
hidden state of one token goes one of three ways: as a tensor (pickled, with a tensor table beside it), packed into one
`bytes`, or through a socket that both hold open, with no RPC at all. For each line "BYTES WAY" that it reads, rank 0
prints the median hop in seconds.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time

import torch
from torch.distributed import rpc

HIDDEN = 576


_weights = torch.zeros(0, HIDDEN, dtype=torch.bfloat16)


def compute(num_bytes: int, hidden: torch.Tensor) -> None:
    """Read `num_bytes` of weights, as a stage that decodes one token."""
    global _weights
    if _weights.nbytes != num_bytes // (2 * HIDDEN) * 2 * HIDDEN:
        _weights = torch.zeros(num_bytes // (2 * HIDDEN), HIDDEN, dtype=torch.bfloat16)
    torch.nn.functional.linear(hidden, _weights)


def arrive(num_bytes: int, hidden: torch.Tensor) -> int:
    """When the hop came in; then compute, as the next stage."""
    arrived_ns = time.monotonic_ns()
    torch.set_num_threads(1)
    compute(num_bytes, hidden)
    return arrived_ns


def arrive_packed(num_bytes: int, packed: bytes) -> int:
    """The same for a hidden state in one `bytes`."""
    arrived_ns = time.monotonic_ns()
    torch.set_num_threads(1)
    compute(num_bytes, unpacked(packed))
    return arrived_ns


def unpacked(packed: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(packed), dtype=torch.bfloat16)[None]


def serve_socket(port: int) -> None:
    """On rank 1: the end of a socket that stays open. Answers each hop with when it came in."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            torch.set_num_threads(1)
            while head := connection.recv(8, socket.MSG_WAITALL):
                packed = connection.recv(2 * HIDDEN, socket.MSG_WAITALL)
                arrived_ns = time.monotonic_ns()
                compute(int.from_bytes(head, "little"), unpacked(packed))
                connection.sendall(arrived_ns.to_bytes(8, "little"))

    threading.Thread(target=serve, daemon=True).start()


class Ways:
    """On rank 0: the ways of a hop. Each returns when it came in."""

    def __init__(self) -> None:
        self._hidden = torch.zeros(1, HIDDEN, dtype=torch.bfloat16)
        self._packed = bytes(2 * HIDDEN)
        port = free_port()
        rpc.rpc_sync("bare-1", serve_socket, args=(port,))
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def tensor(self, num_bytes: int) -> int:
        return rpc.rpc_sync("bare-1", arrive, args=(num_bytes, self._hidden))

    def packed(self, num_bytes: int) -> int:
        return rpc.rpc_sync("bare-1", arrive_packed, args=(num_bytes, self._packed))

    def socket(self, num_bytes: int) -> int:
        self._socket.sendall(num_bytes.to_bytes(8, "little") + self._packed)
        return int.from_bytes(self._socket.recv(8, socket.MSG_WAITALL), "little")


WAYS = ("tensor", "packed", "socket")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class BareRpc:
    """Starts the pair and asks it. A context manager: both processes end with the block."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def hop_s(self, num_bytes: int, way: str) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(num_bytes, way, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def __enter__(self) -> BareRpc:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def join(rank: int, port: str) -> None:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", port
    os.environ["TP_SOCKET_IFNAME"] = "lo"
    options = rpc.TensorPipeRpcBackendOptions(num_worker_threads=4, _transports=["uv"], _channels=["basic"])
    rpc.init_rpc(f"bare-{rank}", rank=rank, world_size=2, rpc_backend_options=options)


def main(port: str) -> None:
    torch.set_num_threads(1)
    code = f"import sys; sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r}); import bare_rpc; "
    code += f"bare_rpc.join(1, {port!r}); bare_rpc.rpc.shutdown()"
    other = subprocess.Popen([sys.executable, "-c", code])
    sys.modules["bare_rpc"] = sys.modules["__main__"]
    for function in (arrive, arrive_packed, serve_socket):
        function.__module__ = "bare_rpc"
    join(0, port)
    ways, hidden = Ways(), torch.zeros(1, HIDDEN, dtype=torch.bfloat16)
    print("ready", flush=True)
    for line in sys.stdin:
        num_bytes, way = int(line.split()[0]), getattr(ways, line.split()[1])
        hops = []
        for _ in range(70):
            compute(num_bytes, hidden)
            sent_ns = time.monotonic_ns()
            hops.append((way(num_bytes) - sent_ns) / 1e9)
        print(statistics.median(hops[10:]), flush=True)
    rpc.shutdown()
    other.wait()


def compare(num_bytes: int = 90_000_000, rounds: int = 7) -> None:
    """All ways in turns, between stages of a third of SmolLM2-135M in bfloat16."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with BareRpc(free_port()) as bare:
        for _ in range(rounds):
            for way in WAYS:
                taken[way].append(bare.hop_s(num_bytes, way) * 1e3)
    for way, hops_ms in taken.items():
        print(f"{way:8} {statistics.median(hops_ms):.3f} ms ({min(hops_ms):.3f} to {max(hops_ms):.3f})")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) > 1 else compare()
