"""The devices of this node: started, shown and told about, and sent home where they belong to another node's door."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from shardnet.cluster.local_workers import LocalWorkers
from shardnet.launch.launcher.asked import Asked
from shardnet.launch.launcher.following import Followed, shown_meanwhile
from shardnet.process.standard_streams import say

KEEP_S = 60
"""How long devices look for a door of another node that is gone: it may be opened again."""
LEAVE_S = 2.0
ENDS_S = 0.2
"""How often it is looked whether all have ended."""


def own_names(num_devices: int) -> list[str]:
    """Of the devices beside the script."""
    return [f"device-{index}" for index in range(num_devices)]


def guest_names(rank: int | None, num_devices: int) -> list[str]:
    """Of the devices of another node: no two nodes have the same."""
    node = secrets.token_hex(3) if rank is None else str(rank)
    return [f"node-{node}-{index}" for index in range(num_devices)]


@contextmanager
def started(asked: Asked, endpoint: str, names: Sequence[str], folder: Path, keep_s: int = 0) -> Iterator[LocalWorkers]:
    """While the block runs, they are there, or are started again; what becomes of them is said."""
    with LocalWorkers(endpoint, names, asked.threads, folder, keep_s, asked.max_restarts) as workers:
        told = _Told(workers, asked.max_restarts)
        workers.on_ended = told.look
        told.look()
        with shown_meanwhile(_followed(asked, workers)):
            yield workers
        workers.on_ended = lambda: None  # they end with this block, which is nothing to be told


def wait_for_end(workers: LocalWorkers) -> int:
    """Wait until all have ended for good; returns the exit code of this node, which is 0 where they were sent home."""
    while not workers.is_over:
        threading.Event().wait(ENDS_S)
    return 1 if any(code != 0 for _, code in workers.poll()) else 0


def send_home(endpoint: str) -> None:
    """Tell all devices that are at a door that it is over."""
    from shardnet.cluster.comings import is_device
    from shardnet.transport.names import SOURCE_MARK
    from shardnet.transport.rpc.transport import RpcTransport

    with RpcTransport.join(endpoint, f"{SOURCE_MARK}launcher-{secrets.token_hex(4)}", timeout_s=LEAVE_S) as here:
        told = [here.post(name, "leave", timeout_s=LEAVE_S) for name in here.members() if is_device(name)]
        for answer in told:
            answer.exception()


def _followed(asked: Asked, workers: LocalWorkers) -> list[Followed]:
    """The logs of those that are to be shown."""
    logs = asked.logs
    return [
        Followed(workers.log_dir / f"{name}.log", partial(_show, name))
        for rank, name in enumerate(workers.names)
        if any(logs.shown[rank]) and rank in logs.ranks
    ]


def _show(name: str, line: str) -> None:
    say(f"[{name}]:{line}")


class _Told:
    """Says what becomes of devices. `look` is called after each news, on one thread."""

    def __init__(self, workers: LocalWorkers, most_restarts: int) -> None:
        self._workers = workers
        self._most_restarts = most_restarts
        self._num_restarts = dict.fromkeys(workers.names, 0)
        self._dead: set[str] = set()
        self._lock = threading.Lock()

    def look(self) -> None:
        with self._lock:
            ended = dict(self._workers.poll())
            for name in self._dead - set(ended):
                self._num_restarts[name] += 1
                say(f"shardnet-run: {name} is started again ({self._num_restarts[name]} of {self._most_restarts}).")
            for name in sorted(set(ended) - self._dead):
                if ended[name] != 0:
                    say(f"shardnet-run: {name} {self._workers.how_it_ended(name)}.")
            self._dead = set(ended)
