"""Guesses by chance, of which so many are right as a test wants: where a real one would guess nothing, or all."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

MOST = 5


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

    def guesser(self) -> OracleGuesser:
        """For one session."""
        return OracleGuesser(self)

    def guess(self, known: list[int], most: int) -> list[int]:
        """What comes behind."""
        ids = next((each for each in self._conversations if each[: len(known)] == known), known)
        size = self._random.randint(0, min(MOST, most))
        truth = ids[len(known) : len(known) + size]
        return [each if self._random.random() < self._share else (each + 1) % 90 for each in truth]


class OracleGuesser:
    """See `Guesser`."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._known: list[int] = []
        self._guesses: list[int] = []

    @property
    def num_known(self) -> int:
        return len(self._known)

    def know(self, token_ids: Sequence[int]) -> None:
        for guess, token_id in zip(self._guesses, token_ids):
            if guess != token_id:
                break
            self._oracle.num_right += 1
        self._oracle.num_guessed += len(self._guesses)
        self._guesses = []
        self._known += token_ids

    def guess(self, most: int) -> list[int]:
        self._guesses = self._oracle.guess(self._known, most)
        return self._guesses

    def give_up(self) -> None:
        self._guesses = []
