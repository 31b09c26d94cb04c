"""Notices that a device is lost: its process ended, its connection broke, or it no longer answers.

One thread asks every device for a sign of life and looks at the processes that this machine started. Says *who* is
lost and in words why; what follows from it is the cluster's business.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from shardnet.errors import CallTimeout, ShardnetError
from shardnet.transport.base import Transport
from shardnet.transport.messages import StageKey

LOOK_EVERY_S = 0.2
LOOK_CLOSELY_EVERY_S = 0.05
"""While a device is suspected."""
ASK_EVERY_S = 1.0
ANSWER_S = 30.0
"""A device that does not answer for so long is taken for lost: a phone may doze, but nobody waits forever."""
GRACE_S = 0.5
"""After a failed hop: how long the signs of a dead process may take to show."""
_log = logging.getLogger(__name__)


class Watch:
    """Watches devices until it is closed.

    Args:
        ended: names of devices whose process is known to have ended, with how.
        on_lost: called once for each lost device, from the watching thread, with its name and the reason.
        on_stages: called likewise when a device has answered, with the stages that it has, and when it was asked.
    """

    def __init__(
        self,
        transport: Transport,
        devices: Sequence[str],
        ended: Callable[[], dict[str, str]],
        on_lost: Callable[[str, str], None],
        on_stages: Callable[[str, Collection[StageKey], float], None],
    ) -> None:
        self.lost: dict[str, str] = {}
        self._transport = transport
        self._devices = tuple(devices)
        self._ended = ended
        self._on_lost = on_lost
        self._on_stages = on_stages
        self._asked: dict[str, tuple[Future[Any], float]] = {}
        self._next_ask_s = time.monotonic() + ASK_EVERY_S
        self._suspicions: dict[str, _Suspicion] = {}
        self._news = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="shardnet-watch", daemon=True)
        self._thread.start()

    def suspect(self, device: str, if_it_lives: Callable[[], None]) -> None:
        """A hop to `device`, or its own computation, failed. Look at once; if it lives, call back.

        What comes for a device while it is being looked at waits for the same verdict.
        """
        with self._news:
            if self._is_closed:
                return
            suspicion = self._suspicions.setdefault(device, _Suspicion(time.monotonic() + GRACE_S))
            suspicion.if_it_lives.append(if_it_lives)
            self._news.notify()

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_closed or self._suspicions, LOOK_EVERY_S)
                if self._is_closed:
                    return
                suspected = dict(self._suspicions)
            try:
                self._look()
                for device, suspicion in suspected.items():
                    self._look_at(device, suspicion)
            except Exception as error:  # whatever it is, the next look must come
                _log.error("watching the devices failed: %s: %s", type(error).__name__, error)
            if suspected:
                time.sleep(LOOK_CLOSELY_EVERY_S)

    def _look(self) -> None:
        for device, how in self._ended().items():
            self._lose(device, how)
        for device, (answer, asked_s) in list(self._asked.items()):
            if answer.done():
                del self._asked[device]
                self._judge(device, answer.exception())
                if answer.exception() is None:
                    self._on_stages(device, answer.result(), asked_s)
        if time.monotonic() >= self._next_ask_s:
            self._next_ask_s = time.monotonic() + ASK_EVERY_S
            for device in self._devices:
                self._ask(device)

    def _ask(self, device: str) -> None:
        if device not in self.lost and device not in self._asked:
            asked_s = time.monotonic()
            self._asked[device] = self._transport.post(device, "stages", timeout_s=ANSWER_S), asked_s

    def _look_at(self, device: str, suspicion: _Suspicion) -> None:
        """Ask a suspected device again and again; after the time of grace it is believed to live."""
        self._ask(device)
        is_over = time.monotonic() >= suspicion.until_s
        if device not in self.lost and not is_over:
            return
        with self._news:
            del self._suspicions[device]
        if device not in self.lost:
            for call_back in suspicion.if_it_lives:
                call_back()

    def _judge(self, device: str, error: BaseException | None) -> None:
        if isinstance(error, CallTimeout):
            self._lose(device, f"it has not answered for {ANSWER_S:.0f} s")
        elif isinstance(error, ShardnetError):
            self._lose(device, self._how_it_ended(device) or "its connection broke")

    def _how_it_ended(self, device: str) -> str | None:
        """How the device's process ended, if it did: a connection breaks a moment before its process is gone."""
        deadline = time.monotonic() + GRACE_S
        while (how := self._ended().get(device)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return how

    def _lose(self, device: str, why: str) -> None:
        if device not in self.lost and device in self._devices:
            self.lost[device] = why
            self._asked.pop(device, None)
            self._on_lost(device, why)


@dataclass
class _Suspicion:
    """A device that is being looked at."""

    until_s: float
    if_it_lives: list[Callable[[], None]] = field(default_factory=list)
