"""What happened to a model and when: events, plans, tokens, all on the coordinator's clock. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from shardnet.timeline.events import Event

RECOVERY = "recovery"
SWITCH = "switch"


class Change(NamedTuple):
    """One ring taking over from another: from when it was known that it must, until the sessions went on."""

    kind: str
    """`recovery` from a loss, or `switch` where nothing was lost."""
    event: Event
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class History:
    """What the coordinator of a model has to tell."""

    loaded_ns: int
    """When the model was loaded."""
    plan_version: int
    """The plan that was in force then."""
    num_devices: int
    """How many devices had units by that plan."""
    events: tuple[Event, ...] = ()
    heard_ns: tuple[int, ...] = ()
    """When the coordinator heard of each token of an answer; rising."""

    def at_ns(self, event: Event) -> int:
        return self.loaded_ns + round(event.at_s * 1e9)

    def since(self, start_ns: int) -> History:
        """Without what was over by then."""
        first = self.in_force(start_ns)
        return replace(
            self,
            plan_version=first[0],
            num_devices=first[1],
            events=tuple(event for event in self.events if self.at_ns(event) >= start_ns),
            heard_ns=self.heard_ns[bisect_left(self.heard_ns, start_ns) :],
        )

    def changes(self) -> list[Change]:
        """Those that came to an end, by that. Two of a kind do not overlap."""
        changes = []
        done_ns = {RECOVERY: self.loaded_ns, SWITCH: self.loaded_ns}
        for event in self.events:
            if event.seconds is not None:
                kind = RECOVERY if event.event == "recovered" else SWITCH
                end = self.at_ns(event)
                start = max(done_ns[kind], end - round(event.seconds * 1e9))  # events' times are rounded
                done_ns[kind] = max(done_ns[kind], end)
                changes.append(Change(kind, event, min(start, end), end))
        return changes

    def in_force(self, ns: int) -> tuple[int, int]:
        """At a time: the version of the plan, and how many devices had units by it."""
        found = self.plan_version, self.num_devices
        for event in self.events:
            if event.num_devices and self.at_ns(event) <= ns:
                found = event.plan_version, event.num_devices
        return found

    def tokens_per_s(self, edges_ns: Sequence[int]) -> list[float]:
        """Tokens of answers for each second between two neighbours of rising `edges_ns`, the first excluded."""
        marks = [bisect_left(self.heard_ns, edge + 1) for edge in edges_ns]
        return [
            (after - before) / ((end - start) / 1e9)
            for (before, after), (start, end) in zip(pairwise(marks), pairwise(edges_ns))
        ]
