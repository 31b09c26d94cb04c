"""Which session another one can begin with: what is known of those that were closed lately. Pure.

What stages still have of them they say themselves (`sharing_messages`); what they have no more is forgotten here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shardnet.transport.sharing_messages import Shares, num_alike

LEAST_TOKENS = 16
"""Fewer are computed sooner than anybody is asked for them: most chats begin with the same few."""
MOST_KNOWN = 64


class Beginnings:
    """The sessions of one model that were closed. Not safe to use from several threads."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, ...]] = {}
        """Of each the ids of prompt and answer; the one that was closed last stands last."""

    def note(self, session: int, ids: tuple[int, ...]) -> None:
        """One was closed that had these."""
        self._known[session] = ids
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
        for session, known in (*open_ones, *self._known.items()):
            num_tokens = min(num_alike(ids, tuple(known)), len(ids) - 1)  # one at least is computed
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
