"""A cluster that outlives its sources, in one process: real coordinator, stages and sources, and faults by script."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from processes import wait_until

from shardnet.coordinator.coordinator import Coordinator
from shardnet.coordinator.events import ClusterEvent
from shardnet.coordinator.notebook import Notebook
from shardnet.device.worker import Worker
from shardnet.process.state_folder import StateFolder
from shardnet.session.stream import Stream
from shardnet.source.connection import AWAY_S, Connection
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport import InProcessNetwork
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import COORDINATOR, LEASE_S


class LastingInProcess:
    """Devices "a", "b", ... as far as they have joined; `connect` makes sources.

    Args:
        speed: of the network's time: what is sent again after 2 s is so at a speed of 100 after 0.02 s.
        folder: where the coordinator keeps its state; None where it keeps none.
    """

    def __init__(self, num_devices: int, speed: float, lease_s: float, folder: Path | None) -> None:
        self._resources = ExitStack()
        self._numbers = itertools.count(1)
        self.network = self._resources.enter_context(InProcessNetwork(speed=speed))
        self.events: list[ClusterEvent] = []
        self._folder = folder
        self._lease_s = lease_s
        self.coordinator = self._begin()
        self.workers: dict[str, Worker] = {}
        for index in range(num_devices):
            self.join(chr(ord("a") + index))

    def join(self, name: str) -> None:
        """A device joins, and the coordinator has heard of it: it is told of members on a thread of its own."""
        self.join_unseen(name)
        wait_until(lambda: name in self.coordinator.devices)

    def join_unseen(self, name: str) -> None:
        """The same where there is no coordinator."""
        worker = self.workers[name] = self._resources.enter_context(Worker(num_threads=1))
        worker.attach(self.network.join(name))

    def disturb(self, source: str, endpoint: str, kind: str) -> None:
        """What a source asks of the coordinator comes "twice", or the first of a "request" or its "answer" get lost."""
        ways = (source, COORDINATOR)
        if kind == "twice":
            self.network.duplicate(*ways, endpoint=endpoint, count=3)
        elif kind == "request":
            self.network.drop(*ways, endpoint=endpoint, count=2)
        else:
            self.network.drop(*reversed(ways), endpoint=endpoint, count=2, answers=True)

    def _begin(self) -> Coordinator:
        notebook = None
        if self._folder is not None:
            notebook = Notebook(self._resources.enter_context(closing(StateFolder(self._folder))))
        made: list[Coordinator] = []

        def prepare(transport: Transport) -> None:
            made.append(Coordinator(transport, self.events.append, lease_s=self._lease_s, notebook=notebook))

        self.network.join(COORDINATOR, prepare)
        return self._resources.enter_context(made[0])

    def kill(self) -> None:
        """The coordinator is killed: what it has not written down and not sent is gone."""
        notebook = self.coordinator._notebook
        assert notebook is not None
        with notebook._lock:  # a process would not go on writing
            notebook._state.close()
        self.network.kill(COORDINATOR)

    def restart(self) -> None:
        """Another one begins where a killed one was. Who joins a door is told of all that are there."""
        self.coordinator = self._begin()
        self.coordinator._attendance._hear(self.network.members(), ())

    def leave(self, name: str) -> None:
        """The end of a device that was told to leave."""
        self.workers.pop(name).premises.transport.close()

    def lose(self, name: str) -> None:
        """A device dies, and the door sees it."""
        self.network.kill(name)
        self.workers.pop(name).premises.transport.close()

    def connect(self, away_s: float = AWAY_S) -> RunningCluster:
        """A source, "@source-1" and so on. Args: `away_s`, how long it waits for a coordinator that is away."""
        with ExitStack() as resources:
            transport = resources.enter_context(self.network.join(f"@source-{next(self._numbers)}"))
            connection = Connection(transport, away_s, ended_s=0.2)
            return self._resources.enter_context(RunningCluster(connection, resources))

    def told(self, event: str) -> list[str]:
        """The sentences of the events of one kind."""
        return [each.text for each in list(self.events) if each.event == event]

    def num_sessions(self) -> int:
        """Open on any stage."""
        stages = [host.stage for worker in self.workers.values() for host in worker._stages.hosts()]
        return sum(stage.usage()[0] for stage in stages if stage is not None)

    def close(self) -> None:
        self._resources.close()


@contextmanager
def lasting_in_process(
    num_devices: int = 2, *, speed: float = 1.0, lease_s: float = LEASE_S, folder: Path | None = None
) -> Iterator[LastingInProcess]:
    cluster = LastingInProcess(num_devices, speed, lease_s, folder)
    try:
        yield cluster
    finally:
        cluster.close()


def ids_of(stream: Stream) -> list[int]:
    """Of a whole answer."""
    for _ in stream:
        pass
    return stream.result.token_ids
