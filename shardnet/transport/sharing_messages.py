"""What a stage is told where a session begins with the same tokens as another one: it has keys and values of them.

    open_session(SessionSpec)    coordinator -> every stage. Where the spec has `shares`, each takes over what it has of
                                 the other session's tokens, and answers how many it has now. They need not agree: who
                                 was closed is dropped wherever memory is needed. Where they do not, all are asked once
                                 more, with the least of the answers, and have as many then.

How many a stage takes over only shrinks: an order that comes twice, or behind a later one, has no effect. The other
session may be under way, or one that was closed and whose spec said that it `stays`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Shares(NamedTuple):
    """Another session, with which one begins."""

    session: int
    most_tokens: int
    """So many are the same, as far as the coordinator knows."""
    ids: tuple[int, ...] = ()
    """These. Sent to the ring's first stage alone, which knows what has come: it takes over no other token."""


NOTHING = Shares(0, 0)
"""Whatever a stage has taken over, it has no more."""


def num_alike(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many ids two sequences of the same type begin alike."""
    least, most = 0, min(len(one), len(other))
    while least < most:  # a few comparisons of slices are quicker than one of each id
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


SHARING_MESSAGES: tuple[type, ...] = (Shares,)
"""As `messages.MESSAGE_TYPES`, behind which they are numbered."""
