"""Has a device pause while its battery, or somebody, asks for it: others take over what it holds, and it stays a member
without work.

The coordinator is told, and told again where another process has taken its place or no answer came.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from shardnet.device.power_limits import PowerLimits
from shardnet.errors import ShardnetError
from shardnet.profiling.power import UNKNOWN_POWER, PowerState, read_power
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import COORDINATOR

READ_EVERY_S = 30.0
"""A phone's battery loses a percent in minutes, and reading it starts a program there."""
AGAIN_S = 60.0
"""For so long nothing must speak against work before a device that paused takes some: plugs have loose contacts."""
LOOK_EVERY_S = 1.0
"""How often it is looked whether the coordinator is to be told something."""
HAND_OVER_S = 60.0
"""How long others may take to take over what it holds."""

TOLD_TO = "it was told to"
Tell = Callable[[str, str], object]


class _Told(NamedTuple):
    """What a coordinator knows."""

    number: int
    """Of its process: see `Transport.number_of`."""
    is_paused: bool


class Pausing:
    """Of one device, whatever becomes of its membership.

    Args:
        tell: told that it pauses ("paused", with the reason), who has taken over what it held ("handed over"), and
            that it takes work again ("unpaused").
        read: may take seconds.
        now_s: tells the time.
    """

    def __init__(
        self,
        limits: PowerLimits,
        tell: Tell,
        read: Callable[[], PowerState] = read_power,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.power = UNKNOWN_POWER
        """As it was read last."""
        self._power_why = ""
        """Why it pauses for its battery's sake; empty where it does not."""
        self._is_told_to = False
        """Whether somebody wants it to pause."""
        self._is_known = False
        """Whether it was told (by `tell`) that it pauses."""
        self._news = threading.Event()
        self._limits = limits
        self._tell = tell
        self._read = read
        self._now_s = now_s
        self._known = UNKNOWN_POWER
        """The last reading that says something of the battery: one that fails changes nothing."""
        self._free_since_s: float | None = None
        """Since when nothing speaks against work, while it pauses."""

    @contextmanager
    def watch(self, here: Transport) -> Iterator[None]:
        """Look as long as this block runs, in which the device is a member; what is being read then may take longer."""
        is_over = threading.Event()
        threading.Thread(target=self._run, args=(here, is_over), name="shardnet-pausing", daemon=True).start()
        try:
            yield
        finally:
            is_over.set()
            self._news.set()

    @property
    def why(self) -> str:
        """Why the device pauses, in words; empty where it does not."""
        return self._power_why or (TOLD_TO if self._is_told_to else "")

    def ask(self, must_pause: bool) -> str:
        """Somebody wants it to pause, or wants that no more. Does not wait. Returns why it pauses all the same."""
        self._is_told_to = must_pause
        self._news.set()
        return self._power_why

    def look(self, power: PowerState) -> None:
        """Go by what was read now."""
        self.power = power
        if power.knows_battery:
            self._known = power
        why = self._limits.why_paused(self._known, is_paused=bool(self._power_why))
        now_s = self._now_s()
        if why:
            self._power_why, self._free_since_s = why, None
        elif self._power_why:
            self._free_since_s = now_s if self._free_since_s is None else self._free_since_s
            if now_s - self._free_since_s >= AGAIN_S:
                self._power_why, self._free_since_s = "", None
        self._announce()

    def _announce(self) -> None:
        why, was_known = self.why, self._is_known
        self._is_known = bool(why)
        if self._is_known != was_known:
            self._tell("paused" if why else "unpaused", why)

    def _run(self, here: Transport, is_over: threading.Event) -> None:
        told: _Told | None = None
        next_s = self._now_s()
        while not is_over.is_set():
            if self._now_s() >= next_s:
                power = self._read()
                if is_over.is_set():
                    return
                self.look(power)
                next_s = self._now_s() + READ_EVERY_S
            self._news.clear()
            self._announce()
            told = self._told(here, told)
            self._news.wait(LOOK_EVERY_S)

    def _told(self, here: Transport, before: _Told | None) -> _Told | None:
        """Tell the coordinator what it does not know. Returns what it knows then."""
        number, why = here.number_of(COORDINATOR), self.why
        is_paused = bool(why)
        if number is None:
            return before
        knows = before is not None and before.number == number and before.is_paused
        if knows == is_paused:
            return before
        began_s = self._now_s()
        try:
            if is_paused:
                moved = here.call(COORDINATOR, "pause", here.name, why, timeout_s=HAND_OVER_S).result()
            else:
                moved = here.call(COORDINATOR, "unpause", here.name, timeout_s=HAND_OVER_S).result()
        except (ShardnetError, TimeoutError):
            return before
        if moved:
            self._tell("handed over", f"{moved}, after {self._now_s() - began_s:.2f} s")
        return _Told(number, is_paused)
