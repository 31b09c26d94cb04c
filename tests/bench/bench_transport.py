"""What `post` costs beside a bare `rpc_async` of the same tensor, and what a join takes.

    python tests/bench/bench_transport.py [--json FILE]

Two pairs of processes on this machine: one in a stock TensorPipe group with the same options, and one in an elastic
group of shardnet. They are measured in turn, some hundred round trips at a time, so that what else the machine
does falls on both. In a third pair, one process joins the other's cluster and leaves it again, some ten times a turn;
starting a process and importing torch are not part of that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import torch

NUM_FLOATS = 576
"""The hidden state of one token of SmolLM2-135M in float32."""
WAYS = {
    "rpc_sync": "stock",
    "rpc_async": "stock",
    "post": "elastic",
    "post of a Hop": "elastic",
    "call": "elastic",
    "join and leave": "joining",
}
BASELINE = "rpc_async"


def acknowledge(tensor: torch.Tensor) -> None:
    """What the other side does: nothing, and says so."""


def be_stock(rank: int, port: int) -> dict[str, Callable[[], Any]]:
    """Join a stock group of two."""
    from torch.distributed import rpc

    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=4, init_method=f"tcp://127.0.0.1:{port}", _transports=["uv"], _channels=["basic"]
    )
    os.environ["TP_SOCKET_IFNAME"] = "lo"
    rpc.init_rpc(f"rank{rank}", rank=rank, world_size=2, rpc_backend_options=options)
    tensor = torch.randn(1, NUM_FLOATS)
    other = rpc.get_worker_info(f"rank{1 - rank}")
    return {
        "rpc_sync": lambda: rpc.rpc_sync(other, acknowledge, args=(tensor,), timeout=30),
        "rpc_async": lambda: rpc.rpc_async(other, acknowledge, args=(tensor,), timeout=30),
    }


def be_elastic(rank: int, port: int) -> dict[str, Callable[[], Any]]:
    """Join an elastic group of two. Rank 0 serves its door."""
    from shardnet.transport import RpcTransport, serve_door
    from shardnet.transport.messages import Hop, Part, RingId

    if rank == 0:
        be_elastic.door = serve_door("127.0.0.1", port)  # type: ignore[attr-defined]
    transport = RpcTransport.join(f"127.0.0.1:{port}", f"rank{rank}", timeout_s=30)
    transport.expose("acknowledge", acknowledge)
    tensor = torch.randn(1, NUM_FLOATS)
    hop = Hop(RingId(bytes(16), 1), 1, (Part(1, 100, 1),), tensor, transport.name, time.monotonic_ns(), 10)
    other = f"rank{1 - rank}"
    return {
        "post": lambda: transport.post(other, "acknowledge", tensor),
        "post of a Hop": lambda: transport.post(other, "acknowledge", hop),
        "call": lambda: transport.call(other, "acknowledge", tensor, timeout_s=30),
    }


def be_joining(rank: int, port: int) -> dict[str, Callable[[], Any]]:
    """Join and leave the cluster of rank 1, again and again."""
    from shardnet.transport import RpcTransport, serve_door

    if rank == 1:
        be_joining.door = serve_door("127.0.0.1", port)  # type: ignore[attr-defined]
        be_joining.member = RpcTransport.join(f"127.0.0.1:{port}", "member")  # type: ignore[attr-defined]
        return {}
    return {"join and leave": lambda: RpcTransport.join(f"127.0.0.1:{port}", "newcomer", timeout_s=30).close()}


def serve(group: str, rank: int, port: int) -> None:
    """Be one process: measure what standard input says, and answer with [[seconds to start, seconds in all], ...]."""
    torch.set_num_threads(1)
    ways = {"stock": be_stock, "elastic": be_elastic, "joining": be_joining}[group](rank, port)
    print("ready", flush=True)
    for line in sys.stdin:
        way, num_rounds = json.loads(line)
        seconds = []
        for _ in range(num_rounds):
            started = time.perf_counter()
            answer = ways[way]()
            returned = time.perf_counter()
            if isinstance(answer, Future):
                answer.result()
            elif answer is not None:
                answer.wait()
            seconds.append((returned - started, time.perf_counter() - started))
        print(json.dumps(seconds), flush=True)
    os._exit(0)  # a stock group would wait for the other


class Process:
    """A process that serves, and its pipe."""

    def __init__(self, group: str, rank: int, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", group, str(rank), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # The stock group warns of torch's own deprecated calls, and of the other side's end.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "FATAL"},
        )

    def read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A process of the benchmark ended before it was done.")
        return line

    def measure(self, way: str, num_rounds: int) -> list[tuple[float, float]]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([way, num_rounds]) + "\n")
        self._process.stdin.flush()
        measured: list[tuple[float, float]] = json.loads(self.read())
        return measured

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure(num_turns: int, num_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The seconds of every round trip of every way, taken in turns."""
    with ExitStack() as ends:
        sources = {}
        for group in ("stock", "elastic", "joining"):
            port = free_port()
            pair = [Process(group, rank, port) for rank in (0, 1)]
            for process in pair:
                ends.callback(process.kill)
            for process in pair:
                process.read()
            sources[group] = pair[0]
        rounds = {way: max(1, num_rounds // 10) if group == "joining" else num_rounds for way, group in WAYS.items()}
        for way, group in WAYS.items():
            sources[group].measure(way, rounds[way])  # connections, caches
        measured: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(num_turns):
            for way, group in WAYS.items():
                measured[way] += sources[group].measure(way, rounds[way])
        return measured


def summarise(measured: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Median and spread of each way in milliseconds, and its difference to the baseline."""
    baseline_ms = statistics.median(seconds for _, seconds in measured[BASELINE]) * 1e3
    ways = {}
    for way, rounds in measured.items():
        deciles = statistics.quantiles((seconds * 1e3 for _, seconds in rounds), n=10)
        ways[way] = {
            "round_trip_ms": deciles[4],
            "p10_ms": deciles[0],
            "p90_ms": deciles[8],
            "over_baseline_ms": deciles[4] - baseline_ms,
            "caller_ms": statistics.median(start for start, _ in rounds) * 1e3,
        }
    return {
        "payload_bytes": NUM_FLOATS * 4,
        "round_trips": len(measured[BASELINE]),
        "baseline": BASELINE,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ways": ways,
    }


def print_table(summary: dict[str, Any]) -> None:
    print(f"{summary['payload_bytes']} bytes, {summary['round_trips']} round trips each, torch {summary['torch']}, ms")
    print(f"{'':16}{'median':>9}{'p10':>9}{'p90':>9}{'over ' + summary['baseline']:>17}{'caller':>9}")
    for way, numbers in summary["ways"].items():
        median, p10, p90, over, caller = (numbers[key] for key in list(numbers))
        print(f"{way:16}{median:9.3f}{p10:9.3f}{p90:9.3f}{over:+17.3f}{caller:9.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=200, help="round trips of each way in a turn")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too; - prints them instead")
    parser.add_argument("--serve", nargs=3, metavar=("GROUP", "RANK", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        group, rank, port = options.serve
        serve(group, int(rank), int(port))
        return
    summary = summarise(measure(options.turns, options.rounds))
    if options.json != "-":
        print_table(summary)
    if options.json == "-":
        print(json.dumps(summary, indent=2))
    elif options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=2)


if __name__ == "__main__":
    main()
