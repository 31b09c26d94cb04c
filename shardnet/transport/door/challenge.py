"""How a door and who knocks at it convince each other that they know the same key. Pure: what goes over is handed in.

    who knocks -> door    greeting
    door -> who knocks    greeting, proof of the door
    who knocks -> door    proof of the member

A proof is HMAC-SHA256 over the role of its sender, the address where the door is reached, and both greetings, each with
a nonce (`greeting`). With the address in it, nobody who listens elsewhere can pass for a door by asking the true one.
Where only this user can reach a door, the key is empty and proves nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from shardnet.transport.door.greeting import greeting_of, mark_in, version_in
from shardnet.transport.door.mark import MARK
from shardnet.versions import OWN

DOOR, MEMBER = b"door", b"member"


class Exchange(NamedTuple):
    """What both sides know when both have greeted."""

    key: bytes
    where: str
    """The address where the door is reached, as both sides of the connection see it."""
    knock: bytes
    answer: bytes
    """The greetings."""

    def proof(self, role: bytes) -> bytes:
        """What only who knows the key can say in that role."""
        said = (role, self.where.encode(), self.knock, self.answer)
        content = b"".join(len(part).to_bytes(2, "big") + part for part in said)
        return hmac.new(self.key, content, hashlib.sha256).digest()

    def is_proven(self, role: bytes, proof: bytes) -> bool:
        """Whether the other side knows the key."""
        return hmac.compare_digest(self.proof(role), proof)


def greet() -> bytes:
    """A new greeting."""
    return greeting_of(OWN, MARK)


def has_same_messages(greeting: bytes) -> bool:
    """Whether it is one of a version that says the same."""
    return version_in(greeting).wire == OWN.wire and mark_in(greeting) == MARK
