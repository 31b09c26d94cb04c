"""What a stage has sent of each session that is open: kept until it ends, so that it can be sent again.

Who takes the place of a lost stage gets from the one before it all that the lost one had got: only the lost blocks are
computed anew. What is kept are hidden states as they travel, beside the session's keys and values
and in memory that was reserved with theirs; where the head is, ids. The first stage keeps the ids that have come, too:
what it had been sent by a source that is no more.

For the compute thread, within a step or between two.

Shapes: T tokens of a step, W numbers of a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import torch

from shardnet.codecs.rows import Codec
from shardnet.errors import BadRequest
from shardnet.models import Shard
from shardnet.stage.extent import Kept
from shardnet.stage.live_session import LiveSession
from shardnet.stage.session_cache import keep_together
from shardnet.transport.messages import Part, SessionStanding

Waiting = Mapping[int, Sequence[tuple[int, torch.Tensor]]]
"""Of each session what waits in the inbox: position and rows, in order of position."""


def kept_by(shard: Shard, sent_as: Codec) -> Kept:
    """What a stage of this shard keeps of each token beside keys and values."""
    width = 0 if shard.has_head else sent_as.width(shard.config.hidden_size)
    return Kept(width, sent_as.dtype, num_ids=shard.has_embedding + shard.has_head)


class SentLog:
    """What one stage has sent."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    @property
    def is_of_ids(self) -> bool:
        """Whether ids are sent: where the head is."""
        return self._shard.has_head

    def keep(
        self, parts: Sequence[Part], sessions: Sequence[LiveSession], inputs: torch.Tensor, sent: torch.Tensor | None
    ) -> None:
        """Keep what a step took, and what it gave.

        Args:
            inputs: ids [T], of the ring's first stage.
            sent: rows [T, W] as they travel; None where the head is: what it samples is in `LiveSession.sampled`.
        """
        if self._shard.has_embedding:
            _keep_ids(parts, sessions, inputs.tolist())
        if sent is not None:
            firsts, sizes = [part.position for part in parts], [part.num_tokens for part in parts]
            keep_together([session.kv for session in sessions], firsts, sizes, sent)

    def raise_if_gone(self, session: LiveSession, position: int) -> None:
        """
        Raises:
            BadRequest: hidden states from `position` on were sent by another unit than the present last one.
        """
        if position < min(session.kept_from, session.kv.length) and not self._shard.has_head:
            raise BadRequest(
                f"Session {session.spec.session} cannot be sent again from position {position}: the stage has other "
                f"units since, and what was sent is kept from {session.kept_from} on. Open the session there anew."
            )

    def end(self, session: LiveSession) -> int:
        """The position behind the last token that can be sent on."""
        if not self._shard.has_head:
            return session.kv.length
        return session.kept_from + len(session.sampled) - session.is_over

    def rows(self, session: LiveSession, first: int, end: int) -> torch.Tensor:
        """What was sent of the tokens from `first` to `end`: rows [end - first, W], or ids [end - first]."""
        if not self._shard.has_head:
            return session.kv.kept(first, end)
        return torch.tensor(session.sampled[first - session.kept_from : end - session.kept_from].tolist())

    def standing(self, session: LiveSession, waiting: Waiting) -> SessionStanding:
        """What is known here of a session."""
        length, ids_from, ids = session.safe_length, 0, array("q")
        if self._shard.has_embedding:
            ids = ids_that_came(session, waiting)
        if self._shard.has_head and self._shard.has_embedding:
            if len(ids) >= session.kept_from:
                ids.extend(session.sampled[len(ids) - session.kept_from :])
        elif self._shard.has_head:
            ids_from, ids = session.kept_from, session.sampled
        return SessionStanding(session.spec.session, length, ids_from, tuple(ids), session.kept_from, session.is_held)


def ids_that_came(session: LiveSession, waiting: Waiting) -> array[int]:
    """To the ring's first stage, one behind the other from position 0 on, also those that wait; no guesses."""
    ids = session.came[:]
    del ids[session.certain : session.kv.length]
    for position, rows in waiting.get(session.spec.session, ()):
        if position <= len(ids):
            ids.extend(rows.tolist()[len(ids) - position :])
    return ids


def _keep_ids(parts: Sequence[Part], sessions: Sequence[LiveSession], ids: list[int]) -> None:
    first = 0
    for part, session in zip(parts, sessions, strict=True):
        end = first + part.num_tokens
        session.came[part.position : part.position + part.num_tokens] = array("q", ids[first:end])
        first = end
