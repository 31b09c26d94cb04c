"""Where devices tell a source straight what they have sampled for it; see `transport.listener_messages`."""

from __future__ import annotations

import secrets
import weakref
from typing import Protocol

from shardnet.transport.base import Transport
from shardnet.transport.listener_messages import KEY_BITS, StraightToken, StraightTokens


class Ear(Protocol):
    """Who listens to one session."""

    def hear(self, token: StraightToken) -> None:
        """A token of it, or of somebody who knows its key. Must not wait."""


class Listening:
    """Safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._ears: weakref.WeakValueDictionary[int, Ear] = weakref.WeakValueDictionary()
        """By the keys of their sessions: those that somebody still holds."""
        transport.expose("hear", self._hear)

    def open(self, ear: Ear) -> int:
        """Let a session be heard. Its key, which is to be told to nobody but the coordinator."""
        key = secrets.randbits(KEY_BITS - 1) + 1  # 0 stands for none
        self._ears[key] = ear
        return key

    def _hear(self, tokens: StraightTokens) -> None:
        """What bears no key of a session here is dropped, and nobody is told which those are."""
        for token in tokens:
            ear = self._ears.get(token.key) if type(token) is StraightToken else None
            if ear is not None:
                ear.hear(token)
