"""Those at the port of a gate whose turn does not come: each is counted, and told of together with others of its
address, so that no flood fills the log or keeps the gate busy with writing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

TELL_S = 5.0
"""How long those of one address are gathered."""
MOST_PLACES = 64
"""Those of further addresses are told of together."""
OTHERS = "other addresses"


class SentAway:
    """On an event loop.

    Args:
        say: told, in a sentence, how many there were.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._counts: Counter[str] = Counter()
        self._telling: asyncio.TimerHandle | None = None

    def note(self, place: str) -> None:
        """Another one, from an address."""
        is_told = place in self._counts or len(self._counts) < MOST_PLACES
        self._counts[place if is_told else OTHERS] += 1
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self.tell)

    def tell(self) -> None:
        """Tell of those who have not been told of yet."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        counts, self._counts = self._counts, Counter()
        for place, count in counts.items():
            self._say(
                f"{place}: {count} came too soon after others, and were sent away before they had shown who they are"
            )
