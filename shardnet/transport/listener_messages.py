"""What a last stage tells, beside the coordinator, who has asked for a session: its *listener*. On one page.

Endpoint of every source (handler in `shardnet.source.listening`):

    hear(StraightTokens)         last stage -> listener: what was sampled, as it is sampled. Told once, or not at all:
                                 what does not come this way comes by `follow`

Who tells bears the session's key, which its source has drawn and which only the coordinator knows, the stage with the
head, and who stands ready for it: no other member can put a token into an answer. Each token says which answer it goes
on from.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

KEY_BITS = 62
"""Of a key, which is random: nobody guesses it."""


def digest(token_ids: Sequence[int], before: int = 0) -> int:
    """Of the beginning of an answer; 32 bits.

    Args:
        before: the digest of the tokens before these.
    """
    return zlib.crc32(array("q", token_ids).tobytes(), before)


class Listener(NamedTuple):
    """Whom the stage with the head tells of a session's tokens."""

    member: str
    key: int
    """Of the session, at that member."""
    known: int = 0
    """The digest of the answer before `SessionSpec.sample_from`."""


class StraightToken(NamedTuple):
    """One token of an answer."""

    key: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """0 for the first one."""
    token_id: int
    before: int
    """The digest of the tokens before it: another answer is not to be mixed with it."""
    guesses: int = 0
    """As in `SampledToken`, as all that follows."""
    log_likelihood: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


StraightTokens = tuple[StraightToken, ...]

LISTENER_MESSAGES: tuple[type, ...] = (Listener, StraightToken)
"""As `messages.MESSAGE_TYPES`, behind which they are numbered."""
