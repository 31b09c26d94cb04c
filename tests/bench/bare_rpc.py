"""Two processes with stock `torch.distributed.rpc` and nothing of shardnet: what a hop costs at the least.

    python tests/bench/bare_rpc.py PORT      (rank 0; starts rank 1 itself)

A hop goes from just before `rpc_sync` to the first line of the remote function. Before it, the sender reads as many
bytes of weights as a stage does, and the receiver did so before: a hop in a ring finds cold caches, and so does this.
For each line "BYTES" that it reads, prints the median hop in seconds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
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


class BareRpc:
    """Starts the pair and asks it. A context manager: both processes end with the block."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def hop_s(self, num_bytes: int) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(num_bytes, file=self._process.stdin, flush=True)
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
    arrive.__module__ = "bare_rpc"
    join(0, port)
    print("ready", flush=True)
    hidden = torch.zeros(1, HIDDEN, dtype=torch.bfloat16)
    for line in sys.stdin:
        num_bytes, hops = int(line), []
        for _ in range(70):
            compute(num_bytes, hidden)
            sent_ns = time.monotonic_ns()
            arrived_ns = rpc.rpc_sync("bare-1", arrive, args=(num_bytes, hidden))
            hops.append((arrived_ns - sent_ns) / 1e9)
        print(statistics.median(hops[10:]), flush=True)
    rpc.shutdown()
    other.wait()


if __name__ == "__main__":
    main(sys.argv[1])
