"""A short code, as `7-harbour-green`, for whoever types: the number of its slot, and two words that are its secret."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from shardnet.errors import UsageError
from shardnet.foreign.quoting import quoted
from shardnet.trust.words import WORDS, number_of

MOST_SLOTS = 99
"""Slots have one digit or two."""
NUM_WORDS = 2
MOST_TYPED = 100
"""Characters of what may be a code."""
_GAP = r"[\s\-‐‑‒–—−_.,]"
"""Between the parts: phones make other dashes of a hyphen."""
_FORM = re.compile(rf"{_GAP}*([0-9]{{1,2}}){_GAP}*([a-z]+){_GAP}+([a-z]+){_GAP}*")


class Code(NamedTuple):
    """A short code."""

    slot: int
    """Says which code it is, to everybody."""
    words: tuple[str, ...]

    def __str__(self) -> str:
        return "-".join((str(self.slot), *self.words))

    @property
    def secret(self) -> bytes:
        """What the two sides of an enrolment prove to know."""
        return "-".join(self.words).encode()


def new_code(slot: int, random: Callable[[int], bytes]) -> Code:
    """A code for a slot, with words that nobody can know.

    Args:
        random: gives so many random bytes.
    """
    return Code(slot, tuple(WORDS[number] for number in random(NUM_WORDS)))


def parse_code(typed: str) -> Code:
    """The code that somebody typed: in any case, with any gaps, each word whole or from its first four letters on.

    Raises:
        UsageError: it is none.
    """
    form = _FORM.fullmatch(typed.lower()) if len(typed) <= MOST_TYPED else None
    if form is None or int(form[1]) == 0:
        raise UsageError(
            f"A code is a number and two words, such as 7-harbour-green, but this one is {quoted(typed)}. Type what "
            "the other screen shows."
        )
    return Code(int(form[1]), (_word(form[2]), _word(form[3])))


def _word(typed: str) -> str:
    number = number_of(typed)
    if number is None:
        raise UsageError(f"No code has the word {quoted(typed)}. Look at the other screen, and type the code again.")
    return WORDS[number]
