"""Marks of guessed tokens, by which the stage with the head knows them again without their ids.

Ids of a conversation are known at the ends of its ring alone (`private_to`): so what a guess is does not travel with
it, but a keyed hash of it, whose key only the two ends have.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

KEY_BYTES = 16
TAG_BYTES = 8


def tag(key: bytes, branch: int, position: int, token_id: int) -> bytes:
    """Of one guess, [TAG_BYTES]."""
    message = b"%d %d %d" % (branch, position, token_id)
    return blake2b(message, key=key, digest_size=TAG_BYTES).digest()


def tags_of(key: bytes, branch: int, position: int, token_ids: Sequence[int]) -> bytes:
    """Of guesses that stand one behind the other from `position` on."""
    return b"".join(tag(key, branch, position + index, token_id) for index, token_id in enumerate(token_ids))


def cut(tags: bytes, num_tokens: int, size: int) -> tuple[bytes, bytes]:
    """Of the first `size` of some tokens, and of those behind them; the last of the tokens are those that have tags."""
    first = max(size - (num_tokens - len(tags) // TAG_BYTES), 0) * TAG_BYTES
    return tags[:first], tags[first:]
