"""Which session another one can begin with: what is known of those that were closed lately. Pure.

What stages still have of them they say themselves (`sharing_messages`); what they have no more is forgotten here, too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from shardnet.transport.sharing_messages import Shares, num_alike

LEAST_TOKENS = 16
"""Fewer are computed sooner than anybody is asked for them: most chats begin with the same few."""
MOST_KNOWN = 64
LEAST_WAITED = 64
"""For fewer tokens nobody waits: they are computed meanwhile."""


class Beginnings:
    """The sessions of one model that were closed. Not safe to use from several threads."""

    def __init__(self) -> None:
        self._known: dict[int, array[int]] = {}
        """Of each the ids of prompt and answer; the one that was closed last stands last."""

    def note(self, session: int, ids: tuple[int, ...]) -> None:
        """One was closed that had these."""
        self._known[session] = array("q", ids)
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def forget(self, session: int) -> None:
        """Nothing is to begin with it."""
        self._known.pop(session, None)

    def best(self, ids: tuple[int, ...], open_ones: Iterable[tuple[int, Sequence[int]]] = ()) -> Shares | None:
        """The session that begins with most of `ids`; None where that is hardly any. Of several the one that was closed
        last, whose memory can be taken over.

        Args:
            open_ones: sessions under way with the ids that are known of them.
        """
        best = None
        asked, known_ones = array("q", ids), [(session, array("q", known)) for session, known in open_ones]
        for session, known in (*known_ones, *self._known.items()):
            num_tokens = min(num_alike(asked, known), len(ids) - 1)  # one at least is computed
            if num_tokens >= max(LEAST_TOKENS, 0 if best is None else best.most_tokens):
                best = Shares(session, num_tokens)
        return None if best is None else best._replace(ids=ids[: best.most_tokens])

    def settle(self, shares: Shares, num_tokens: int) -> None:
        """All stages had so many of what was asked for. Where that was most of a session, its heir has it now."""
        known = self._known.get(shares.session)
        if known is None:
            return
        if num_tokens < shares.most_tokens:
            known = self._known[shares.session] = known[:num_tokens]
        if len(known) < LEAST_TOKENS or 2 * num_tokens >= len(known):
            self.forget(shares.session)


def worth_waiting_for(
    ids: tuple[int, ...], num_at_once: int, begun: Iterable[tuple[int, tuple[int, ...]]]
) -> Shares | None:
    """The session with which one had better begin when its prompt is computed. Not where that is mostly another one.

    Prompts are computed in the order in which they come: that of the other one is in the way of these ids in any case.

    Args:
        num_at_once: so many tokens are there already, of whatever other session.
        begun: sessions whose prompts are being computed, with these.
    """
    best, least = None, num_at_once + LEAST_WAITED
    for session, prompt in begun:
        num_tokens = min(num_alike(ids, prompt), len(ids) - 1)
        if num_tokens >= max(least, len(prompt) / 2):
            best, least = Shares(session, num_tokens, ids[:num_tokens]), num_tokens + 1
    return best
