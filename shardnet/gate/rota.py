"""Which addresses of a gate are dialled next. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shardnet.trust.addresses import Address

MOST_ONCE = 4
"""Addresses that one may say who need not know, of four of them."""


class Rota:
    """The one that was reached last is dialled each time, and beside it the others in turn.

    Args:
        addresses: where the gate may be; those that are likelier come first.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.reached: Address | None = None
        """Where it was last."""
        self._others = deque(addresses)
        self._once: deque[Address] = deque()

    def try_once(self, addresses: Sequence[Address]) -> None:
        """It may be there, says somebody who need not know: each is dialled once, before the others have their turn."""
        said = dict.fromkeys((*addresses[:MOST_ONCE], *self._once))
        self._once = deque(list(said)[: 4 * MOST_ONCE])

    def know(self, addresses: Sequence[Address]) -> None:
        """It may be there from now on, and nowhere else."""
        self._others = deque(each for each in addresses if each != self.reached)
        if self.reached not in addresses:
            self.reached = None

    def next(self) -> tuple[Address, ...]:
        """Those of the next attempt: two at the most, and none where none is known."""
        tried = [] if self.reached is None else [self.reached]
        while self._once:
            once = self._once.popleft()
            if once not in tried:
                return (*tried, once)
        if self._others:
            tried.append(self._others[0])
            self._others.rotate(-1)
        return tuple(tried)

    def note(self, address: Address) -> None:
        """The gate was reached there."""
        if address == self.reached:
            return
        if address in self._others:
            self._others.remove(address)
        if self.reached is not None:
            self._others.append(self.reached)
        self.reached = address
