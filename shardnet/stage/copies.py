"""What a stage gives to those that follow it: keys and values of their units, what it has sent, and ids.

It remembers nothing of its followers: each says what it has, and gets as much of what it lacks as it asked for. Ids,
and keys that stand for them, go to those alone that follow embedding or head. A copy is made by the compute thread
between two steps, as a step that only reads: who is closed meanwhile keeps its rows until it is made.

A text that is scored or read is not copied where the head is: what was found of it, and maybe told to nobody, would be
lacking. Whoever takes over there begins with its first token.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence

from shardnet.errors import BadRequest
from shardnet.models import Shard
from shardnet.models.kv import BlockKV
from shardnet.stage.live_session import LiveSession
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.sent_log import Waiting, ids_that_came
from shardnet.stage.token_rows import Tokens, width_of
from shardnet.transport.confidences import told_to
from shardnet.transport.messages import Copied, CopyWanted, HeldCopy, OwnedSession, Part

NOTHING_HELD = HeldCopy(0, 0, 0, 0)
MOST_BYTES = 2**22
"""In one answer, however much is asked for: so much memory it takes besides, and for so long others wait."""


class Copies:
    """
    Args:
        waiting: gives what waits in the inbox; for the first stage.
        lock: guards which sessions are open, and how far they are.
    """

    def __init__(
        self,
        shard: Shard,
        sessions: LiveSessions,
        waiting: Callable[[], Waiting],
        lock: threading.Condition,
    ) -> None:
        self._shard = shard
        self._sessions = sessions
        self._waiting = waiting
        self._lock = lock

    def read(self, wanted: CopyWanted) -> Copied:
        """What a follower lacks, or the next part of it.

        Raises:
            BadRequest: the stage has not all of these units.
        """
        shard = self._shard
        blocks = blocks_of(shard, wanted.first_unit, wanted.last_unit)
        has_sent = wanted.is_end and wanted.last_unit == shard.last_unit and not shard.has_head
        kept = self._sessions.kept
        sent_bytes = kept.width * kept.dtype.itemsize if has_sent else 0
        row_bytes = width_of(blocks) * shard.kv_row_dtype.itemsize + sent_bytes
        with self._lock:
            owned = [one for one in self._sessions.all() if one.is_settled and not one.spec.is_given]
            held = {one.session: one for one in wanted.held}
            known = {*held, *wanted.passed_over} if wanted.is_end else {one.spec.session for one in owned}
            is_first = shard.has_embedding and wanted.first_unit == 0
            is_last = shard.has_head and wanted.last_unit == shard.last_unit
            specs = [one.spec for one in owned if one.spec.session not in known]
            opened = tuple(told_to(spec, is_first=is_first, is_last=is_last) for spec in specs)
            waiting = self._waiting() if is_first else None
            copies = [held.get(one.spec.session, NOTHING_HELD) for one in owned]
            states = tuple(_state(one, copy, waiting, is_last) for one, copy in zip(owned, copies, strict=True))
            parts = _due(owned, held, max(min(wanted.most_bytes, MOST_BYTES) // max(row_bytes, 1), 1))
            sessions = self._sessions.begin_step(parts)
        try:
            tokens = Tokens(parts, [session.kv for session in sessions])
            rows = tokens.read_blocks(blocks, shard.kv_row_dtype)
            sent = tokens.read_sent(kept.width, kept.dtype) if has_sent else None
        finally:
            with self._lock:
                self._sessions.end_step()
        return Copied(opened, states, parts, rows, sent)


def _state(session: LiveSession, held: HeldCopy, waiting: Waiting | None, is_last: bool) -> OwnedSession:
    """
    Args:
        waiting: where the follower has the ring's first unit.
        is_last: whether it has the head.
    """
    came, sampled = array("q"), array("q")
    if waiting is not None:
        came = ids_that_came(session, waiting)[held.num_came :]
    sampled_from = session.kept_from
    if session.sampler is not None and is_last:
        sampled_from = max(session.kept_from, held.sampled_to)
        sampled = session.sampled[sampled_from - session.kept_from :]
    number, length = session.spec.session, session.safe_length
    ids = (held.num_came, tuple(came), sampled_from, tuple(sampled))
    num_scores = 0 if session.sampler is None else session.sampler.num_scores
    return OwnedSession(number, length, session.kept_from, *ids, session.is_over, num_scores, session.branch)


def blocks_of(shard: Shard, first_unit: int, last_unit: int) -> list[BlockKV]:
    """What the blocks among some units of a shard cache.

    Raises:
        BadRequest: it has not all of these units.
    """
    if not shard.first_unit <= first_unit <= last_unit <= shard.last_unit:
        raise BadRequest(
            f"Units {first_unit} to {last_unit} cannot be copied from a stage of units {shard.first_unit} to "
            f"{shard.last_unit}. Ask who has them now."
        )
    return list(shard.kv_layout_of(first_unit, last_unit))


def _due(owned: Sequence[LiveSession], held: dict[int, HeldCopy], most_tokens: int) -> tuple[Part, ...]:
    """What is copied now: of those that are least behind first, for they are being decoded."""
    behind = []
    for session in owned:
        copy = held.get(session.spec.session)
        if copy is not None and copy.length < session.safe_length:
            behind.append(Part(session.spec.session, copy.length, session.safe_length - copy.length))
    parts: list[Part] = []
    for part in sorted(behind, key=lambda one: one.num_tokens):
        size = min(part.num_tokens, most_tokens)
        if size:
            parts.append(part._replace(num_tokens=size))
        most_tokens -= size
    return tuple(parts)
