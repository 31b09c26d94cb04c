"""Two processes with stock `torch.distributed.rpc` and nothing of shardnet: what a hop costs at the least.

    python tests/bench/bare_rpc.py PORT      (rank 0; starts rank 1 itself)

For each line that it reads, prints the median of half a round trip of an echo of one hidden state, in seconds.
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


def echo(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


class BareRpc:
    """Starts the pair and asks it. A context manager: both processes end with the block."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def hop_s(self) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print("go", file=self._process.stdin, flush=True)
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
    echo.__module__ = "bare_rpc"
    join(0, port)
    print("ready", flush=True)
    hidden = torch.zeros(1, HIDDEN, dtype=torch.bfloat16)
    for _ in sys.stdin:
        times = []
        for _ in range(110):
            start = time.perf_counter()
            rpc.rpc_sync("bare-1", echo, args=(hidden,))
            times.append((time.perf_counter() - start) / 2)
        print(statistics.median(times[10:]), flush=True)
    rpc.shutdown()
    other.wait()


if __name__ == "__main__":
    main(sys.argv[1])
