"""Asks devices for signs of life, looks at the processes that this machine started, and tells who is lost.

Performs `shardnet.policy.membership` on one thread. What follows from a loss is the cluster's business.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any

from shardnet.errors import CallTimeout, ShardnetError
from shardnet.policy.membership import (
    Action,
    Broken,
    Came,
    Doubted,
    Ended,
    Event,
    Heard,
    Limits,
    Passed,
    handle,
    present,
)
from shardnet.transport.base import Transport
from shardnet.transport.messages import StageKey

LIMITS = Limits()
LOOK_EVERY_S = 0.2
LOOK_CLOSELY_EVERY_S = 0.05
"""While a device is doubted."""
ANSWER_S = 10.0
"""After which a question is given up, and the edge that it was sent through, if any. Others were asked since."""
_log = logging.getLogger(__name__)


class Watch:
    """Watches devices until it is closed.

    Args:
        ended: names of devices whose process is known to have ended, with how.
        on_lost: called once for each lost device, from the watching thread, with its name and the reason.
        on_stages: called likewise when a device has answered, with the stages that it has, and when it was asked.
        on_suspected: called likewise with a device and why it is suspected, and with no reason when it is no more.
    """

    def __init__(
        self,
        transport: Transport,
        devices: Sequence[str],
        ended: Callable[[], dict[str, str]],
        on_lost: Callable[[str, str], None],
        on_stages: Callable[[str, Collection[StageKey], float], None],
        on_suspected: Callable[[str, str], object] = lambda device, why: None,
    ) -> None:
        self.lost: dict[str, str] = {}
        """Each with the reason."""
        self.suspected: set[str] = set()
        """Silent for a while: nobody should wait for them who need not."""
        self.gone: set[str] = set()
        """Those that are known to be off the roster: another one may have such a name by now."""
        self._transport = transport
        self._ended = ended
        self._on_lost = on_lost
        self._on_stages = on_stages
        self._on_suspected = on_suspected
        self._limits = LIMITS
        self._members = present(devices, time.monotonic(), self._limits)
        self._asked: list[tuple[str, Future[Any], float]] = []
        self._doubted: list[tuple[str, Callable[[], None]]] = []
        """What has come for devices since the last look."""
        self._told: list[Event] = []
        """Who came and who went since then."""
        self._if_it_lives: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._news = threading.Condition()
        self._must_look = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="shardnet-watch", daemon=True)
        self._thread.start()

    def suspect(self, device: str, if_it_lives: Callable[[], None]) -> None:
        """A hop to `device`, or its own computation, failed. Look at once; if it lives, call back.

        What comes for a device while it is being looked at waits for the same verdict.
        """
        with self._news:
            if not self._is_closed:
                self._doubted.append((device, if_it_lives))
                self._news.notify()

    def tell(self, event: Came | Ended) -> None:
        """A device has come, or is known to have gone. Looked at soon, on the watching thread."""
        with self._news:
            if isinstance(event, Came):
                self.lost.pop(event.device, None)
            self._told.append(event)
            self._news.notify()

    def look(self) -> None:
        """Look at once: a process may have ended."""
        with self._news:
            self._must_look = True
            self._news.notify()

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _has_news(self) -> bool:
        return bool(self._doubted or self._told or self._must_look)

    def _run(self) -> None:
        while True:
            with self._news:
                wait_s = LOOK_CLOSELY_EVERY_S if self._if_it_lives else LOOK_EVERY_S
                self._news.wait_for(lambda: self._is_closed or self._has_news(), wait_s)
                if self._is_closed:
                    return
                self._must_look = False
                doubted, self._doubted = self._doubted, []
                told, self._told = self._told, []
            for event in told:
                self._guarded(self._take, event)
            self._guarded(self._look_at_processes)
            self._guarded(self._hear)
            for device, if_it_lives in doubted:
                self._guarded(self._doubt, device, if_it_lives)
            self._guarded(self._handle, Passed())

    def _guarded(self, work: Callable[..., object], *arguments: object) -> None:
        """Do it, and whatever comes of it go on: another device's news and the next look must not wait for it."""
        try:
            work(*arguments)
        except Exception as error:
            _log.error("watching the devices failed: %s: %s", type(error).__name__, error)

    def _take(self, event: Event) -> None:
        if isinstance(event, Came):
            self.lost.pop(event.device, None)  # the one before it, whose end was told between
            self.suspected.discard(event.device)
            self.gone.discard(event.device)
        elif isinstance(event, Ended):
            self.gone.add(event.device)
        self._handle(event)

    def _look_at_processes(self) -> None:
        for device, how in self._ended().items():
            self._handle(Ended(device, how))

    def _doubt(self, device: str, if_it_lives: Callable[[], None]) -> None:
        if device not in self.lost:
            self._if_it_lives[device].append(if_it_lives)
            self._handle(Doubted(device))

    def _hear(self) -> None:
        """What devices have answered since the last look."""
        asked, self._asked = self._asked, []
        for device, answer, asked_s in asked:
            if answer.done():
                self._guarded(self._hear_from, device, answer, asked_s)
            else:
                self._asked.append((device, answer, asked_s))

    def _hear_from(self, device: str, answer: Future[Any], asked_s: float) -> None:
        error = answer.exception()
        if error is None:
            self._handle(Heard(device))
            self._on_stages(device, answer.result(), asked_s)
        elif isinstance(error, ShardnetError) and not isinstance(error, CallTimeout):
            self._handle(Broken(device))

    def _handle(self, event: Event) -> None:
        self._members, actions = handle(time.monotonic(), self._members, event, self._limits)
        for action in actions:
            self._guarded(self._perform, action)

    def _perform(self, action: Action) -> None:
        device = action.device
        if action.kind == "ask":
            answer = self._transport.post(device, "stages", timeout_s=ANSWER_S)
            self._asked.append((device, answer, time.monotonic()))
        elif action.kind == "suspect":
            self.suspected.add(device)
            self._on_suspected(device, action.why)
        elif action.kind == "trust":
            self.suspected.discard(device)
            self._on_suspected(device, "")
        elif action.kind == "lose":
            self.lost[device] = action.why
            self.suspected.discard(device)
            self._if_it_lives.pop(device, None)
            self._on_lost(device, action.why)
        elif action.kind == "believe":
            for call_back in self._if_it_lives.pop(device, []):
                self._guarded(call_back)
