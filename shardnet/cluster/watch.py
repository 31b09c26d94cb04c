"""Notices that a device is lost: its process ended, its connection broke, or it no longer answers.

One thread asks every device for a sign of life and looks at the processes that this machine started. Says *who* is
lost and in words why; what follows from it is the cluster's business.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from shardnet.errors import CallTimeout, ShardnetError
from shardnet.transport.base import Transport

LOOK_EVERY_S = 0.2
ASK_EVERY_S = 1.0
ANSWER_S = 30.0
"""A device that does not answer for so long is taken for lost: a phone may doze, but nobody waits forever."""
GRACE_S = 0.5
"""After a failed hop: how long the signs of a dead process may take to show."""


class Watch:
    """Watches devices until it is closed.

    Args:
        ended: names of devices whose process is known to have ended, with how.
        on_lost: called once for each lost device, from the watching thread, with its name and the reason.
    """

    def __init__(
        self,
        transport: Transport,
        devices: Sequence[str],
        ended: Callable[[], dict[str, str]],
        on_lost: Callable[[str, str], None],
    ) -> None:
        self.lost: dict[str, str] = {}
        self._transport = transport
        self._devices = tuple(devices)
        self._ended = ended
        self._on_lost = on_lost
        self._asked: dict[str, Future[Any]] = {}
        self._next_ask_s = time.monotonic() + ASK_EVERY_S
        self._suspicions: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="shardnet-watch", daemon=True)
        self._thread.start()

    def suspect(self, device: str, if_it_lives: Callable[[], None]) -> None:
        """A hop to `device`, or its own computation, failed. Look at once; if it lives, call back."""
        self._suspicions.put((device, if_it_lives))

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        self._suspicions.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                suspicion = self._suspicions.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                self._look()
                continue
            if suspicion is None:
                return
            device, if_it_lives = suspicion
            if not self._is_lost_within(device, GRACE_S):
                if_it_lives()

    def _look(self) -> None:
        for device, how in self._ended().items():
            self._lose(device, how)
        for device, future in list(self._asked.items()):
            if future.done():
                del self._asked[device]
                self._judge(device, future.exception())
        if time.monotonic() >= self._next_ask_s:
            self._next_ask_s = time.monotonic() + ASK_EVERY_S
            for device in self._devices:
                if device not in self.lost and device not in self._asked:
                    self._asked[device] = self._transport.post(device, "ping", timeout_s=ANSWER_S)

    def _is_lost_within(self, device: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while device not in self.lost and time.monotonic() < deadline:
            for ended, how in self._ended().items():
                self._lose(ended, how)
            asked = self._transport.post(device, "ping", timeout_s=seconds)
            error = asked.exception()
            if error is not None and not isinstance(error, CallTimeout):
                self._judge(device, error)
            time.sleep(0.05)
        return device in self.lost

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
