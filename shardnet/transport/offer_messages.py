"""What whoever has asked for a session offers to the ring's first stage: guesses of a small model. On one page.

Endpoint of every device (handler in `shardnet.device.worker`):

    offer(Offer) -> bool         source, or coordinator -> first stage: what may come next of one answer. Whether that
                                 session begins there: where it does not, it is to be looked for elsewhere

Offers are told once, or not at all, and nothing depends on one. Each bears the session's key, which only who has asked
for the session, the coordinator and the first stage know, and those who stand ready for it: nobody else has guesses
checked there, but for the stage with the head, which has the listener's key and could reckon it. It says which tokens
it goes on from, and begins a few tokens before the end of what is known: so it is of use wherever the first stage knows
a little less or more of the answer than the source, and an offer that is lost is made good by the next one.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

MOST_IDS = 64
"""Of one offer."""
KEY_BYTES = 7
"""A key has 64 bits with its sign."""


class Offer(NamedTuple):
    """What may come next of an answer, and the last tokens before that."""

    key: int
    """`SessionSpec.offer_key`."""
    position: int
    """Of the first of the tokens, the prompt's counted, too."""
    before: int
    """The digest of all tokens before that one; see `listener_messages.digest`."""
    ids: tuple[int, ...]
    """`MOST_IDS` at most."""

    def is_for(self, num_ids: int) -> bool:
        """Whether a model of so many ids may be asked whether it is right."""
        return len(self.ids) <= MOST_IDS and all(0 <= token_id < num_ids for token_id in self.ids)


def offer_key_of(listener_key: int) -> int:
    """The key for offers of a session that has a listener: who knows this one does not know that one's."""
    number = listener_key.to_bytes(KEY_BYTES + 1, "little", signed=True)
    return int.from_bytes(blake2b(number, digest_size=KEY_BYTES, person=b"offer").digest(), "little") or 1


OFFER_MESSAGES: tuple[type, ...] = (Offer,)
"""As `messages.MESSAGE_TYPES`, behind which they are numbered."""
