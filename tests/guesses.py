"""Guesses by chance, of which so many are right as a test wants: where a real one would guess nothing, or all. Several
chunks are in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from shardnet.speculation.ahead import Ahead
from shardnet.speculation.laps import Laps
from shardnet.speculation.pays import Load

MOST = 5
MOST_CHUNKS = 4


class Oracle:
    """Knows all conversations, and says something else now and then. In the place of `Guesser`.

    Args:
        conversations: ids of prompt and answer of each, no two of which begin alike. Of others it guesses nothing.
        share: of guesses, those that are right.
    """

    def __init__(self, conversations: Sequence[Sequence[int]], share: float, seed: int = 0) -> None:
        self._conversations = [list(each) for each in conversations]
        self._share = share
        self._random = Random(seed)
        self.num_right = 0
        self.num_guessed = 0
        self.num_further = 0
        """Chunks that went round behind others."""

    def guesser(self, _way: str, _laps: Laps, _most_tokens: int) -> OracleGuesser:
        """For one session."""
        return OracleGuesser(self)

    def guess(self, known: list[int], in_flight: list[int], most: int) -> list[int]:
        """What comes behind known tokens, and guesses."""
        ids = next((each for each in self._conversations if each[: len(known)] == known), known)
        first = len(known) + len(in_flight)
        truth = ids[first : first + self._random.randint(0, min(MOST, most))]
        return [each if self._random.random() < self._share else (each + 1) % 90 for each in truth]


class OracleGuesser:
    """See `Guesser`."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._known: list[int] = []
        self._ahead = Ahead()
        self._num_chunks = 0

    @property
    def num_known(self) -> int:
        return len(self._known)

    @property
    def num_in_flight(self) -> int:
        return self._ahead.num_in_flight

    def know(self, token_ids: Sequence[int], _now_s: float) -> None:
        num_sent = self._ahead.num_in_flight
        num_right = self._ahead.know(token_ids)
        self._oracle.num_right += num_right
        self._oracle.num_guessed += num_sent if num_right < len(token_ids) else num_right
        self._known += token_ids
        if self._ahead.num_in_flight == 0:
            self._num_chunks = 0

    def begin(
        self, most: int, _load: Load, _num_others: int, _now_s: float, *, is_clear: bool
    ) -> tuple[list[int], float]:
        assert isinstance(is_clear, bool)
        self._num_chunks = 1
        guesses = self._guess(most)
        return guesses, float(len(guesses))

    def further(self, most: int, _num_others: int, _now_s: float) -> tuple[list[int], float]:
        if not 0 < self._num_chunks < MOST_CHUNKS or most < 1:
            return [], inf
        guesses = self._guess(most)
        self._num_chunks += 1
        self._oracle.num_further += bool(guesses)
        return guesses, inf

    def _guess(self, most: int) -> list[int]:
        ahead = self._ahead
        in_flight = [ahead[at] for at in range(ahead.num_known, ahead.end)]
        ids = self._oracle.guess(self._known, in_flight, most)
        ahead.offer(ahead.end, ahead.digest, ids)
        return ahead.take(most)

    def give_up(self) -> None:
        self._ahead.give_up()
        self._num_chunks = 0
