"""Who cannot be reckoned with while a model is there, why, and what was said of it. Pure: the clock is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from shardnet.errors import ClusterError, DeviceLost, ShardnetError
from shardnet.plan import Plan
from shardnet.policy.succession import Away, Cut, Verdict
from shardnet.timeline.events import takers_of, units_on

CUT_S = 60.0
"""For so long no ring goes over a way that was cut; then it is tried again where that helps."""


class News(NamedTuple):
    """What is to be said of a device."""

    state: str
    text: str
    device: str


class _Trouble(NamedTuple):
    """Nothing arrives over a way between two devices."""

    seen_s: float
    why: str
    is_certain: bool


class Absences:
    """Those of one deployment. Whoever has it sees to it that one thread uses it at a time.

    Args:
        now_s: tells the time.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.lost: dict[str, str] = {}
        """Every device that is lost for good, with the reason."""
        self.silent: dict[str, str] = {}
        """Those that do not answer now, and may come back."""
        self.full: dict[str, str] = {}
        """Those that have not taken, in the present change, what was given to them."""
        self._cuts: dict[Cut, _Trouble] = {}
        """Ways between two living devices."""
        self._told: dict[str, str] = {}
        """Of each device, what was said of it."""

    def lose(self, device: str, why: str) -> bool:
        """A device is lost. False where that is known."""
        self.silent.pop(device, None)
        is_new = device not in self.lost
        self.lost.setdefault(device, why)
        return is_new

    def suspect(self, device: str, why: str) -> bool:
        """A device is silent. False where it is lost."""
        if device not in self.lost:
            self.silent[device] = why
        return device not in self.lost

    def trust(self, device: str) -> bool:
        """A silent device is heard again. False where it was not."""
        return self.silent.pop(device, None) is not None

    def forget(self, device: str) -> None:
        """Another one has come under that name."""
        self.lost.pop(device, None)
        self.silent.pop(device, None)
        self._told.pop(device, None)

    def cut(self, ends: Cut, why: str, is_certain: bool) -> bool:
        """Nothing arrives over a way. False where that is known."""
        away = self.away()
        is_new = ends not in (away.cut if is_certain else away.cut | away.late)
        if is_new:
            self._cuts[ends] = _Trouble(self._now_s(), why, is_certain)
        return is_new

    def away(self) -> Away:
        """As the policy sees it."""
        seen = {ends: each for ends, each in self._cuts.items() if self._now_s() < each.seen_s + CUT_S}
        cut = frozenset(ends for ends, each in seen.items() if each.is_certain)
        lost, silent, full = frozenset(self.lost), frozenset(self.silent), frozenset(self.full)
        return Away(lost, silent, full, cut, late=frozenset(seen) - cut)

    def settled(self) -> None:
        """A ring is whole."""
        self.full.clear()
        self._told = {device: state for device, state in self._told.items() if state != _CUT_OFF}

    def news_of(self, verdict: Verdict, plan: Plan, coming: Plan | None) -> list[News]:
        """What becomes of the units of those that are away, once of each.

        Args:
            plan: the one in force.
            coming: the one that was being gone over to before the verdict.
        """
        news = []
        if verdict.plan is not coming and verdict.plan is not plan:
            for device in sorted(set(plan.devices) - set(verdict.plan.devices)):
                takers = takers_of(device, plan, verdict.plan)
                news += self._once(device, f": its {units_on(plan, device)} go to {takers}")
        for device in sorted(verdict.waits_for):
            news += self._once(device, ", and nobody else takes its units over now: it is waited for")
        return news

    def is_back(self, device: str) -> list[News]:
        """It is heard again: said where it was said that it was not."""
        was_told = self._told.pop(device, "")
        return [News("back", f"{device} is heard again", device)] if was_told else []

    def too_much(self, plan: Plan, why_not: str, what_goes: Mapping[str, str]) -> ShardnetError:
        """The error for what cannot be mended.

        Args:
            plan: the one in force.
            what_goes: with each device of the ring, in words that follow what became of it.
        """
        lost = sorted(set(self.lost).intersection(plan.devices))
        held = [device for device in lost if device in what_goes] or lost
        why = "; ".join((why_not, *self.full.values()))
        if not held:
            causes = "; ".join(each.why for each in self._cuts.values())
            return ClusterError(f"{causes}. There is no way round it: {why}")
        what = f"{held[0]} is lost ({self.lost[held[0]]}){what_goes.get(held[0], '')}"
        return DeviceLost(f"{what}, and the others cannot take over: {why}", held[0])

    def _once(self, device: str, what_follows: str) -> list[News]:
        state, why = self._state_of(device)
        if self._told.get(device) == state:
            return []
        self._told[device] = state
        return [News(state, f"{device} is {state} ({why}){what_follows}", device)]

    def _state_of(self, device: str) -> tuple[str, str]:
        """What is the matter with a device, and why."""
        if device in self.lost:
            return "lost", self.lost[device]
        if device in self.silent:
            return "suspected", self.silent[device]
        return _CUT_OFF, next((each.why for ends, each in self._cuts.items() if device in ends), "")


_CUT_OFF = "cut off"
