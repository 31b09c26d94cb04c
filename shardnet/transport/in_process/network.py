"""A network within one process, for tests: the semantics of the RPC transport, and faults by script.

Messages are copied as a wire would copy them, so that aliasing shows; handlers run on threads of a pool; what may
not travel is refused here, too. Nothing sleeps: delays and timeouts are entries of one timer thread.

    with InProcessNetwork() as network:
        a, b = network.join("a"), network.join("b")
        network.drop("a", "b", endpoint="hop", count=1)
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from shardnet.errors import NameTaken, ShardnetError, UsageError
from shardnet.process.threads import Errands
from shardnet.transport import failure
from shardnet.transport.base import OnMembers
from shardnet.transport.in_process.device import Function, InProcessTransport
from shardnet.transport.in_process.faults import Faults, Rule
from shardnet.transport.in_process.parcel import Parcel
from shardnet.transport.outcomes import failed, outcome_of, settle
from shardnet.transport.timers import Timers

NEWS_S = 1.0
"""How long the last news of members may take at the end."""


class InProcessNetwork:
    """Makes the devices of a test, and does to their messages what the test's script says."""

    def __init__(self, *, ordered: bool = False, speed: float = 1.0) -> None:
        """
        Args:
            ordered: messages of a pair of devices do not overtake each other; they may over RPC.
            speed: how many seconds of the network's pass in one: its delays, and how long answers are waited for.
        """
        self.timers = Timers(speed)
        self._faults = Faults()
        self._ordered = ordered
        self._members: dict[str, InProcessTransport] = {}
        self._frozen: dict[InProcessTransport, list[Callable[[], None]]] = {}
        self._queues: dict[tuple[str, str], deque[Callable[[], None]]] = {}
        self._pending: dict[Future[Any], tuple[InProcessTransport, InProcessTransport]] = {}
        self._drawn: dict[str, int] = {}
        self._ids = itertools.count(1)
        self._on_members: list[tuple[str, OnMembers]] = []
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="in-process")
        self._news = Errands("in-process-members")

    def join(
        self, name: str, prepare: Callable[[InProcessTransport], object] = lambda transport: None
    ) -> InProcessTransport:
        """Add a device. It may take over the name of a dead one.

        Args:
            prepare: exposes what it offers, before the others know of it.

        Raises:
            NameTaken: a living member has that name.
        """
        transport = InProcessTransport(self, name, next(self._ids))
        prepare(transport)
        with self._lock:
            holder = self._members.get(name)
            if holder is not None and not holder.is_dead:
                raise NameTaken(f"A device called {name} is in the cluster already. Choose another name.")
            self._members[name] = transport
            self._tell_of((name,), () if holder is None else (name,))
        return transport

    def member(self, name: str) -> InProcessTransport | None:
        """The member of that name, dead or alive."""
        return self._members.get(name)

    def members(self) -> tuple[str, ...]:
        """Who is in the group: also the dead, until they are evicted."""
        return tuple(sorted(self._members))

    def on_members(self, device: str, callback: OnMembers) -> None:
        """See `Transport.on_members`; `device` is whose callback it is."""
        with self._lock:
            self._on_members.append((device, callback))

    def _tell_of(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        """Called with the lock held, so that changes are told in their order."""
        for device, callback in self._on_members:
            if device not in joined:
                self._news.do(partial(callback, joined, left))

    def draw(self, counter: str, count: int) -> int:
        """See `Transport.draw`."""
        with self._lock:
            first = self._drawn.get(counter, 0) + 1
            self._drawn[counter] = first + count - 1
        return first

    def delay(self, source: str, target: str, seconds: float) -> None:
        """Let every message from `source` to `target`, answers too, take that long from now on."""
        self._faults.delay(source, target, seconds)

    def scatter(self, most_s: float, seed: int) -> None:
        """Let every message, answers too, take up to so long more from now on: they arrive in any order."""
        self._faults.scatter(most_s, seed)

    def drop(
        self, source: str, target: str, *, endpoint: str = "*", count: int = 1, answers: bool = False, skip: int = 0
    ) -> None:
        """Lose the next requests (or answers) from `source` to `target`, after `skip` of them. "*": any name."""
        self._faults.add(Rule(source, target, endpoint, answers, 0, count, skip))

    def duplicate(self, source: str, target: str, *, endpoint: str = "*", count: int = 1, skip: int = 0) -> None:
        """Deliver the next requests from `source` to `target` twice, after `skip` of them. "*": any name."""
        self._faults.add(Rule(source, target, endpoint, False, 2, count, skip))

    def at(self, endpoint: str, skip: int, action: Callable[[], object]) -> None:
        """Do something when the next request to that endpoint, after `skip` of them, is sent by whomever."""
        self._faults.at(endpoint, skip, action)

    def freeze(self, device: str) -> None:
        """Hold what a device receives and sends until it is restored, as if its process were stopped."""
        with self._lock:
            self._frozen.setdefault(self._members[device], [])

    def kill(self, device: str) -> None:
        """End a device: calls that wait for it, and those that it waits for, fail with DeviceLost.

        It stays on the roster until it is evicted, and does not come back: join anew under its name.
        """
        with self._lock:
            dead = self._members[device]
            dead.is_dead = True
            self._frozen.pop(dead, None)
        self.fail_pending(dead, failure.lost(device, "its last calls"))

    def restore(self, device: str | None = None) -> None:
        """Let a frozen device run again. Without a name: forget every fault except the dead."""
        with self._lock:
            if device is None:
                self._faults.clear()
            thawing = [member for member in self._frozen if device in (None, member.name)]
            held = [deliver for member in thawing for deliver in self._frozen.pop(member)]
        for deliver in held:
            deliver()

    def remove(self, transport: InProcessTransport, error: ShardnetError) -> None:
        """Take a device off the roster, and fail what waits for it."""
        with self._lock:
            if self._members.get(transport.name) is not transport:
                return
            del self._members[transport.name]
            self._tell_of((), (transport.name,))
        self.fail_pending(transport, error)

    def fail_pending(self, transport: InProcessTransport, error: ShardnetError) -> None:
        """Fail every answer that goes to or comes from a device."""
        with self._lock:
            concerned = [answer for answer, pair in list(self._pending.items()) if transport in pair]
        for answer in concerned:
            settle(answer, error)

    def ask(
        self,
        source: InProcessTransport,
        target: InProcessTransport,
        endpoint: str,
        function: Function,
        args: tuple[Any, ...],
        timeout_s: float,
    ) -> Future[Any]:
        """Run a function on another device's behalf: `function(source, target, *args)`, with copies of `args`."""
        if source.is_dead or target.is_dead:
            return failed(failure.lost(target.name, endpoint))
        try:
            parcel = Parcel(args)
        except Exception as error:
            return failed(UsageError(f"What {endpoint!r} should send to {target.name} cannot travel: {error}"))
        answer: Future[Any] = Future()
        with self._lock:
            self._pending[answer] = source, target
        timer = self.timers.after(
            timeout_s, lambda: settle(answer, failure.timed_out(target.name, endpoint, timeout_s))
        )
        answer.add_done_callback(timer.cancel)
        answer.add_done_callback(lambda done: self._pending.pop(done, None))

        def run() -> None:
            outcome = source.attempt_at(target, endpoint, function, parcel)
            if isinstance(outcome, Future):
                outcome.add_done_callback(lambda done: reply(outcome_of(done, target.name, endpoint)))
            else:
                reply(outcome)

        def reply(outcome: Any) -> None:
            copied = _copied(outcome, source, target, endpoint)
            self._carry(target, source, endpoint, lambda: settle(answer, copied), is_answer=True)

        self._carry(source, target, endpoint, run, is_answer=False)
        return answer

    def _carry(
        self,
        source: InProcessTransport,
        target: InProcessTransport,
        endpoint: str,
        deliver: Callable[[], None],
        *,
        is_answer: bool,
    ) -> None:
        for action in [] if is_answer else self._faults.due(endpoint):
            self._submit(action)
        num_copies, delay_s = self._faults.decide(source.name, target.name, endpoint, is_answer)
        for _ in range(num_copies):
            arrive = partial(self._arrive, source, target, deliver)
            if delay_s > 0:
                self.timers.after(delay_s, arrive)
            else:
                arrive()

    def _arrive(self, source: InProcessTransport, target: InProcessTransport, deliver: Callable[[], None]) -> None:
        with self._lock:
            if source.is_dead or target.is_dead:
                return
            for device in (source, target):
                if device in self._frozen:
                    self._frozen[device].append(partial(self._arrive, source, target, deliver))
                    return
            if not self._ordered:
                self._submit(deliver)
                return
            queue = self._queues.setdefault((source.name, target.name), deque())
            queue.append(deliver)
            if len(queue) == 1:
                self._submit(partial(self._drain, queue))

    def _drain(self, queue: deque[Callable[[], None]]) -> None:
        """Run what a pair of devices has in its queue, one after another."""
        while True:
            queue[0]()
            with self._lock:
                queue.popleft()
                if not queue:
                    return

    def _submit(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the network was closed meanwhile
            self._pool.submit(function)

    def close(self) -> None:
        """End every device and thread."""
        for member in list(self._members.values()):
            member.close()
        self._news.end(NEWS_S)
        self.timers.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> InProcessNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copied(outcome: Any, source: InProcessTransport, target: InProcessTransport, endpoint: str) -> Any:
    """An answer as it arrives, or a `Failure` that says why it cannot."""
    try:
        return Parcel(outcome).open(source)
    except Exception as error:
        return failure.Failure("ClusterError", f"{target.name} could not serve {endpoint!r}: {error}", target.name)
