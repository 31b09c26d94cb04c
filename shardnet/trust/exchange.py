"""How two sides that know the same short code come to a key that nobody else has: SPAKE2, and tags made with its key.

Whoever does not know the code can try one guess in an exchange, and learns nothing from listening. The code is bound to
the connection: into the key goes the key of the server's certificate as each side sees it, so that who stands between
them with a certificate of its own cannot pass on what they say. Every message that follows is tagged, over all that was
said before it and by whom: none can be changed, repeated, left out or sent back to its sender.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from shardnet.trust.enrolment_messages import Kind, Message, pack

_NEWCOMER, _CLUSTER = b"shardnet newcomer", b"shardnet cluster"
ELEMENT_BYTES = 33


class CodeExchange:
    """One side's part in coming to a key. Good for one use.

    Args:
        secret: of the code.
        server_key: the fingerprint of the key in the server's certificate, as this side sees it.
    """

    def __init__(self, is_newcomer: bool, secret: bytes, server_key: bytes) -> None:
        from spake2 import SPAKE2_A, SPAKE2_B  # a megabyte, which a gate does without until somebody shows a code

        side = SPAKE2_A if is_newcomer else SPAKE2_B
        self._spake: Any = side(secret, idA=_NEWCOMER, idB=_CLUSTER + server_key)
        self.element: bytes = self._spake.start()
        """What the other side is to be sent."""

    def key(self, element: bytes) -> bytes:
        """The key, which the other side has too if it has used the same code.

        Raises:
            ValueError: what came is no element of the other side's.
        """
        from spake2 import SPAKEError
        from spake2.ed25519_basic import NotOnCurve

        if len(element) != ELEMENT_BYTES:
            raise ValueError(f"an element of {len(element)} bytes")
        try:
            key: bytes = self._spake.finish(element)
        except (SPAKEError, NotOnCurve) as cause:
            raise ValueError("what came is no element") from cause
        return key


class Conversation:
    """All that was said on a connection, in order, and the keys of its tags once there are any."""

    def __init__(self, is_newcomer: bool) -> None:
        self._is_newcomer = is_newcomer
        self._said = hashlib.sha256()
        self._own: bytes | None = None
        self._others: bytes | None = None
        self._is_proven = False
        """Whether the other side has shown to have the keys."""

    def agree(self, key: bytes) -> None:
        """From here on, tag messages with keys made of that one."""
        newcomers, clusters = (_mac(key, role, self._said.digest()) for role in (_NEWCOMER, _CLUSTER))
        self._own, self._others = (newcomers, clusters) if self._is_newcomer else (clusters, newcomers)

    def say(self, kind: Kind, *fields: bytes) -> bytes:
        """A message to be sent. The cluster tags none before the newcomer has: who guesses proves first."""
        message = Message(kind, fields)
        if self._own is not None and (self._is_newcomer or self._is_proven):
            message = message._replace(tag=self._tag(self._own, message))
        self._said.update(pack(message))
        return pack(message)

    def hear(self, message: Message) -> bool:
        """Note a message that came, and say whether it is what the other side said; before there are keys, anything is
        that has no tag."""
        if self._others is None:
            is_theirs = message.tag == b""
        else:
            is_theirs = self._is_proven = hmac.compare_digest(self._tag(self._others, message), message.tag)
        self._said.update(pack(message))
        return is_theirs

    def _tag(self, key: bytes, message: Message) -> bytes:
        return _mac(key, self._said.digest(), message.said)


def _mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(len(part).to_bytes(4, "big") + part for part in parts), hashlib.sha256).digest()
