"""Which tokens belong together where some are guesses: what a stage may do with a part that comes. Pure.

A ring's first stage sends guesses behind the tokens that it knows. What it sends of a session is one *branch* after the
other: tokens one behind the other, which only get more. Where a token turns out to be another one than was guessed, the
next branch begins at its place: up to there it is the one before it. So a branch agrees with all later ones at least as
far as its tokens are *certain*: sampled, or of the prompt.

What a stage has of a session is a `Line`: the first `length` tokens of one branch, and no others. It goes on only with
tokens of the same branch, or of a later one from a place on up to which both are known to agree. What is of an earlier
branch is of no use any more. Nothing else is ever applied, in whatever order parts come and however often:

    a later branch than the next one     agrees as far as tokens are certain here
    the next one                         agrees up to where it begins, which is `branch_from`

In every ring all stages begin anew, when they switch to it, with the tokens that are certain and a branch that is later
than all before (`first_branch`): guesses of an earlier ring are gone wherever they are. A first stage may know fewer
tokens then than stages behind it have. It must not guess at those, and is told how many they are before it guesses at
all: a part with guesses that knows of fewer certain tokens than the stage that gets it is not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shardnet.transport.messages import Part

BRANCH_BITS = 20
"""More branches than a session has tokens."""


class Line(NamedTuple):
    """What a stage has of a session."""

    branch: int = 0
    length: int = 0
    """So many tokens of it."""
    certain: int = 0
    """So many tokens are known to be no guesses; they need not be here."""
    branch_from: int = 0
    """So many the branch has in common with the one before it."""

    @property
    def safe(self) -> int:
        """Tokens that are here and are no guesses: all that others may get of them."""
        return min(self.length, self.certain)


def first_branch(plan_version: int) -> int:
    """Of a ring: later than those of any earlier one."""
    return plan_version << BRANCH_BITS


def is_stale(line: Line, part: Part) -> bool:
    """Whether it is of a branch that was given up."""
    return part.branch < line.branch


def reach(line: Line, part: Part) -> int | None:
    """How many tokens the stage has of the branch of a part that is not stale: those behind them can be applied.

    None where the part has to wait for others.
    """
    if part.num_guesses and part.certain < line.certain and part.branch != line.branch:
        return None
    if part.branch == line.branch:
        common = line.length
    elif part.branch == line.branch + 1:
        common = min(line.length, max(line.certain, part.branch_from))
    else:
        common = line.safe
    return common if part.position <= common else None


def moved(line: Line, part: Part, common: int) -> Line:
    """What the stage has once it goes by the branch of a part of which it had `common` tokens: without its own."""
    certain = max(line.certain, part.certain)
    return Line(part.branch, common, certain, part.branch_from)


def sent_then(next_sent: int, told: int, before: Line, now: Line) -> int:
    """From where on the next stage is sent tokens, when what is here has become another line.

    Args:
        next_sent: so many tokens it had, or was sent.
        told: of so many it knows that they are certain.
    """
    if now.branch == before.branch:
        return next_sent
    return min(next_sent, now.length if now.branch == before.branch + 1 else told)


def confirmed(line: Line, guessed: Sequence[int], ids: Sequence[int]) -> tuple[Line, int]:
    """At the first stage: what becomes of its line when the ids behind the certain ones are known.

    Args:
        guessed: which it has applied there, length - certain of them.

    Returns:
        The line, and of how many ids it has the tokens; those behind are to be applied.
    """
    assert len(guessed) == line.length - line.certain, (line, len(guessed))
    num_right = 0
    while num_right < min(len(guessed), len(ids)) and guessed[num_right] == ids[num_right]:
        num_right += 1
    certain = line.certain + num_right
    if num_right < len(ids) and certain < line.length:
        return Line(line.branch + 1, certain, certain, certain), num_right
    return line._replace(certain=certain), num_right


def begun_anew(line: Line, branch: int) -> Line:
    """At any stage, in another ring, whose first branch that is."""
    return Line(max(branch, line.branch), line.safe, line.safe, line.safe)
