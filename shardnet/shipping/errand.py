"""Which part is asked of whom, while a device fetches tensors that it lacks. Pure.

Each part is asked of one holder at a time, of the nearest one that is of use: one that was lost, or has sent wrong
bytes twice, is asked for nothing any more; one that did not answer in time, for nothing as long as there are others;
one that refuses a tensor, for that tensor; one that has not got a part yet, for no part of that tensor before
`look_again`. A damaged part is asked of another holder where there is one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MOST_LIES = 2
"""Damaged parts, after which a holder is not asked any more."""
MOST_SILENCES = 3
"""The same of answers that did not come in time, with nothing in between that did."""


class Order(NamedTuple):
    """A part that one holder is asked for."""

    root: str
    part: int
    """From 0."""
    holder: str


class Errand:
    """What lacks, and who can give it."""

    def __init__(self, lacking: Mapping[str, Sequence[int]]) -> None:
        """Args: `lacking`, the parts of each tensor, by its root; asked for in that order."""
        self._lacking = {root: dict.fromkeys(parts) for root, parts in lacking.items() if parts}
        self._holders: dict[str, tuple[str, ...]] = {}
        self._asked: set[tuple[str, int]] = set()
        self._waits: dict[str, str] = {}
        """Tensors that are still on their way to their only holder, and that one."""
        self._refused: dict[str, set[str]] = defaultdict(set)
        self._liars: dict[tuple[str, int], set[str]] = defaultdict(set)
        """Who has sent a part damaged."""
        self._has_changed = True
        """A tensor may have no holder any more: to look through all takes a while, where experts are thousands."""
        self._silences: Counter[str] = Counter()
        self.lies: Counter[str] = Counter()
        self.given_up: set[str] = set()
        """Holders that are asked for nothing any more."""

    @property
    def is_done(self) -> bool:
        return not self._lacking

    @property
    def lacking(self) -> list[str]:
        """Tensors of which parts lack."""
        return list(self._lacking)

    def nobody_known(self) -> list[str]:
        """Tensors of which no holder is known that could be asked."""
        if not self._has_changed:
            return []
        found = [root for root in self._lacking if not self._usable(root)]
        self._has_changed = bool(found)
        return found

    def avoided_for(self, root: str) -> frozenset[str]:
        """Those that it is of no use to name for a tensor."""
        return frozenset(self.given_up | self._refused[root])

    def learn(self, root: str, holders: Sequence[str]) -> None:
        """Args: `holders`, the nearest one first."""
        self._holders[root] = tuple(holders)
        self._waits.pop(root, None)

    def next_order(self) -> Order | None:
        """What to ask for next; None where all that can be is asked for."""
        for root, parts in self._lacking.items():
            if root in self._waits:
                continue
            part = next((part for part in parts if (root, part) not in self._asked), None)
            usable = self._usable(root)
            if part is None or not usable:
                continue
            honest = [holder for holder in usable if holder not in self._liars[root, part]]
            self._asked.add((root, part))
            return Order(root, part, (honest or usable)[0])
        return None

    def came(self, order: Order) -> None:
        """It is here, and right."""
        self._asked.discard((order.root, order.part))
        self._silences.pop(order.holder, None)
        parts = self._lacking[order.root]
        del parts[order.part]
        if not parts:
            del self._lacking[order.root]
            self._waits.pop(order.root, None)

    def was_damaged(self, order: Order) -> None:
        """What came is not what its hash says."""
        self._again(order)
        self._liars[order.root, order.part].add(order.holder)
        self.lies[order.holder] += 1
        if self.lies[order.holder] >= MOST_LIES:
            self.give_up(order.holder)

    def was_refused(self, order: Order) -> None:
        """Its holder does not give it."""
        self._again(order)
        self._refused[order.root].add(order.holder)
        self._has_changed = True

    def was_lost(self, order: Order) -> None:
        """Its holder is gone."""
        self._again(order)
        self.give_up(order.holder)

    def was_silent(self, order: Order) -> None:
        """Its holder did not answer in time."""
        self._again(order)
        self._silences[order.holder] += 1
        self.give_up(order.holder)

    def try_silent_again(self) -> bool:
        """Ask holders again that only were silent, and not too often: nobody else is left. False where there are
        none."""
        again = {
            holder
            for holder, times in self._silences.items()
            if holder in self.given_up and times < MOST_SILENCES and self.lies[holder] < MOST_LIES
        }
        self.given_up -= again
        self._has_changed = True
        return bool(again)

    def was_dropped(self, order: Order) -> None:
        """It was not asked for as a whole when its holder was given up."""
        self._again(order)

    def is_on_its_way(self, order: Order) -> None:
        """Its holder has not got it yet."""
        self._again(order)
        self._waits[order.root] = order.holder

    def look_again(self) -> None:
        """What was on its way may be there by now."""
        self._waits.clear()

    def waited_for(self) -> frozenset[str]:
        """Holders that have not got yet what is wanted of them."""
        return frozenset(self._waits.values())

    def give_up(self, holder: str) -> None:
        """Ask it for nothing any more."""
        self.given_up.add(holder)
        self._has_changed = True
        self._waits = {root: other for root, other in self._waits.items() if other != holder}

    def _again(self, order: Order) -> None:
        self._asked.discard((order.root, order.part))

    def _usable(self, root: str) -> list[str]:
        avoided = self.avoided_for(root)
        return [holder for holder in self._holders.get(root, ()) if holder not in avoided]
