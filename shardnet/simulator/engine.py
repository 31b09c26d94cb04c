"""Servers that do one job at a time, on a simulated clock."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

Resource = tuple[str, ...]
"""`(device,)`, or `(from, to)` for a directed link."""


@dataclass(frozen=True)
class Leg:
    """A part of a way round the ring: so long on that device or link."""

    resource: Resource
    seconds: float
    label: str
    num_tokens: int = 1
    num_bytes: float = 0.0
    position: int | None = None
    """Of a decode leg in its lap."""


@dataclass(frozen=True, slots=True)
class Busy:
    """What a server did and when."""

    resource: Resource
    start_s: float
    end_s: float
    label: str
    session: int
    num_tokens: int
    num_bytes: float


@dataclass(eq=False)
class _Job:
    session: int
    leg: Leg
    is_wanted: Callable[[], bool]
    """Once not wanted, never again."""
    done: Callable[[], None]
    is_taken: bool = False


class _Server:
    """A device or a link: jobs are served in the order of their arrival.

    A ring that visits a device twice in a lap makes an exception: of decode steps that wait for it, those at the lap's
    beginning go first. First come, first served would let sessions gather behind each other and lose up to a third of
    the rate that the closed formula gives; this order loses nothing in 97% of random rings, and a quarter at worst.
    """

    def __init__(self, alive: bool) -> None:
        self._waiting: deque[_Job] = deque()
        self._decoding: list[tuple[int, int, _Job]] = []
        """Those of the waiting that are decode steps, as a heap: position in the lap, then arrival."""
        self._arrivals = count()
        self.running: _Job | None = None
        self.started_s = 0.0
        self.ends_s = 0.0
        """When what runs is to be done; later by as long as the server was frozen meanwhile."""
        self.frozen_s = 0.0
        """How long it was, while this job ran."""
        self.frozen_since_s: float | None = None
        self.slowdown = 1.0
        self.alive = alive
        self.busy_s = 0.0
        self.seen_slowdown = 1.0
        """Measured over expected time, as an exponentially weighted mean."""

    def queue(self, job: _Job) -> None:
        self._waiting.append(job)
        if job.leg.position is not None:
            heapq.heappush(self._decoding, (job.leg.position, next(self._arrivals), job))

    def clear(self) -> None:
        self._waiting.clear()
        self._decoding.clear()

    def take(self) -> _Job | None:
        """The next job that is still wanted."""
        while self._waiting and (self._waiting[0].is_taken or not self._waiting[0].is_wanted()):
            self._waiting.popleft()
        if not self._waiting:
            return None
        job = self._waiting[0]
        while job.leg.position is not None:
            _, _, job = heapq.heappop(self._decoding)
            if job.is_wanted() and not job.is_taken:
                break
        job.is_taken = True
        return job


class Engine:
    """The clock, the servers, and what is still to happen."""

    def __init__(self, jitter: float, seed: int, smoothing: float = 0.3, is_recorded: bool = True) -> None:
        self.now_s = 0.0
        self.servers: dict[Resource, _Server] = {}
        """Those that have had something to do."""
        self._dead: set[Resource] = set()
        self.spans: list[Busy] = []
        """Everything that was done, where it is recorded."""
        self.num_done = 0
        self.last_s = 0.0
        """When the last thing was done."""
        self._is_recorded = is_recorded
        self.jitter = jitter
        self._random = random.Random(seed)
        self._smoothing = smoothing
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._stopped = False

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Do something at a time; of two at the same time the one asked for first comes first."""
        heapq.heappush(self._due, (time_s, next(self._order), action))

    @property
    def is_idle(self) -> bool:
        """Nothing is left to happen."""
        return not self._due

    def run(self) -> None:
        """Until nothing is left to happen, or `stop`."""
        while self._due and not self._stopped:
            self.now_s, _, action = heapq.heappop(self._due)
            action()

    def stop(self) -> None:
        self._stopped = True

    def server(self, resource: Resource) -> _Server:
        if resource not in self.servers:
            self.servers[resource] = _Server(resource not in self._dead)
        return self.servers[resource]

    def do(self, session: int, leg: Leg, is_wanted: Callable[[], bool], done: Callable[[], None]) -> None:
        """Queue a job. It is dropped unfinished where it is no longer wanted; `done` is not called then."""
        server = self.server(leg.resource)
        server.queue(_Job(session, leg, is_wanted, done))
        self._begin(leg.resource, server)

    def kill(self, resource: Resource) -> None:
        """What runs or waits there is lost."""
        self._dead.add(resource)
        if resource in self.servers:
            server = self.servers[resource]
            server.alive, server.running = False, None
            server.clear()

    def revive(self, resource: Resource) -> None:
        self._dead.discard(resource)
        if resource in self.servers:
            server = self.servers[resource]
            server.alive, server.seen_slowdown = True, 1.0

    def freeze(self, resource: Resource) -> None:
        """It stops where it is, until it is thawed."""
        server = self.server(resource)
        if server.frozen_since_s is None:
            server.frozen_since_s = self.now_s

    def thaw(self, resource: Resource) -> None:
        """It goes on where it stopped."""
        server = self.server(resource)
        if server.frozen_since_s is None:
            return
        frozen_s = self.now_s - server.frozen_since_s
        server.frozen_since_s = None
        if server.running is None:
            self._begin(resource, server)
            return
        server.ends_s += frozen_s
        server.frozen_s += frozen_s
        self._end_later(resource, server, server.running)

    def _begin(self, resource: Resource, server: _Server) -> None:
        if not server.alive or server.running is not None or server.frozen_since_s is not None:
            return
        job = server.take()
        if job is None:
            return
        server.running, server.started_s, server.frozen_s = job, self.now_s, 0.0
        server.ends_s = self.now_s + job.leg.seconds * server.slowdown * self._jitter_factor()
        self._end_later(resource, server, job)

    def _end_later(self, resource: Resource, server: _Server, job: _Job) -> None:
        ends_s = server.ends_s
        self.at(ends_s, lambda: self._end(resource, server, job, ends_s))

    def _end(self, resource: Resource, server: _Server, job: _Job, ends_s: float) -> None:
        if server.running is not job or server.frozen_since_s is not None or server.ends_s != ends_s:
            return  # its server died under it, stands still, or stood still meanwhile
        server.running = None
        start_s = server.started_s
        seconds = self.now_s - start_s - server.frozen_s
        server.busy_s += seconds
        if job.leg.seconds > 0:
            seen = seconds / job.leg.seconds
            server.seen_slowdown += self._smoothing * (seen - server.seen_slowdown)
        leg, now_s = job.leg, self.now_s
        self.num_done, self.last_s = self.num_done + 1, now_s
        if self._is_recorded:
            self.spans.append(Busy(resource, start_s, now_s, leg.label, job.session, leg.num_tokens, leg.num_bytes))
        if job.is_wanted():
            job.done()
        self._begin(resource, server)

    def _jitter_factor(self) -> float:
        """Log-normal with mean 1: a step is sometimes much slower, never faster than nothing."""
        if not self.jitter:
            return 1.0
        return self._random.lognormvariate(-(self.jitter**2) / 2, self.jitter)
