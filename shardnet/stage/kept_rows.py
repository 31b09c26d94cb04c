"""Where the head is: the last hidden states of texts whose rows are read, and who waits for them.

They are kept as the last block gives them, until the session ends: what is asked for, they become when it is asked for,
a few rows at a time. See `rows_messages`.

Shapes: t rows, H hidden size, W numbers of a row that is read.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from shardnet.errors import BadRequest, KVMemorySpent, ShardnetError
from shardnet.models import Shard
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.live_session import LiveSession
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.row_memory import RowMemory
from shardnet.transport.outcomes import settle
from shardnet.transport.rows_messages import MOST_ROW_BYTES, Rows, RowsWanted
from shardnet.transport.session_messages import SessionSpec

NO_ROWS = torch.empty(0, 0)


def row_memory_of(spec: SessionSpec, shard: Shard, budget: MemoryBudget) -> RowMemory | None:
    """Where a session's hidden states are kept; None where none are.

    Raises:
        BadRequest: there is no such token.
        KVMemorySpent: the budget has less.
    """
    if spec.rows is None or not shard.has_head:
        return None
    num_rows = spec.capacity_tokens - spec.rows.first
    if spec.rows.first < 0 or num_rows < 1:
        raise BadRequest(
            f"Session {spec.session} is to give rows from token {spec.rows.first} on and has {spec.capacity_tokens}."
        )
    width = int(shard.config.hidden_size)
    num_bytes = num_rows * width * shard.dtype.itemsize
    if not budget.reserve(num_bytes):
        free_bytes, limit_bytes = budget.room()
        raise KVMemorySpent(
            f"The hidden states of a text need {num_bytes / 2**20:.1f} MiB where the head is, and "
            f"{free_bytes / 2**20:.1f} of {limit_bytes / 2**20:.1f} MiB are free. Wait for other sessions to end, or "
            "ask for the last token alone."
        )
    memory = RowMemory(spec.rows.first, torch.empty((num_rows, width), dtype=shard.dtype))
    weakref.finalize(memory, budget.release, num_bytes)
    return memory


class RowReaders:
    """Who waits for rows of the sessions of one stage: one for each session.

    Args:
        lock: guards which sessions are open.
    """

    def __init__(self, shard: Shard, sessions: LiveSessions, lock: threading.Condition) -> None:
        self._shard = shard
        self._sessions = sessions
        self._lock = lock
        self._waiting: dict[int, tuple[RowsWanted, Future[Rows]]] = {}

    def ask(self, wanted: RowsWanted) -> Future[Rows]:
        """From any thread. It is answered by a later `answer`."""
        asked: Future[Rows] = Future()
        with self._lock:
            before = self._waiting.pop(wanted.session, None)
            self._waiting[wanted.session] = wanted, asked
        if before is not None:
            settle(before[1], Rows(before[0].first, NO_ROWS))
        return asked

    def answer(self) -> None:
        """Answer those who wait for what is there. For the compute thread, between two steps."""
        if not self._waiting:
            return
        with self._lock:
            due = [(*each, self._sessions.get(number)) for number, each in self._waiting.items()]
            due = [each for each in due if each[2] is None or each[0].first < each[2].kv.length]
            for wanted, _, _ in due:
                del self._waiting[wanted.session]
        for wanted, asked, session in due:
            try:
                outcome: Rows | ShardnetError = self._read(wanted, session)
            except BadRequest as error:
                outcome = error
            settle(asked, outcome)

    def drop(self, sessions: Sequence[int], why: Callable[[int], ShardnetError]) -> None:
        """These are over. From any thread, without a lock."""
        with self._lock:
            dropped = [(number, self._waiting.pop(number)) for number in sessions if number in self._waiting]
        for number, (_, asked) in dropped:
            settle(asked, why(number))

    def end(self, error: ShardnetError) -> None:
        """The stage takes no more work."""
        self.drop(list(self._waiting), lambda _: error)

    def _read(self, wanted: RowsWanted, session: LiveSession | None) -> Rows:
        """
        Raises:
            BadRequest: no rows of it are kept, or they are no numbers.
        """
        memory = None if session is None else session.rows
        if session is None or memory is None or session.spec.rows is None or session.sampler is None:
            raise not_open(wanted.session)
        if wanted.first < memory.first:
            raise BadRequest(f"Of session {wanted.session} rows are kept from {memory.first} on.")
        are_logits = session.spec.rows.are_logits
        config = self._shard.config
        width = int(config.vocab_size if are_logits else config.hidden_size)
        end = min(session.kv.length, wanted.first + max(1, MOST_ROW_BYTES // (4 * width)))
        hidden = memory.read(wanted.first, end)
        rows = self._shard.logits_of(hidden) if are_logits else self._shard.normed(hidden)
        if bool(rows.isnan().any()):
            raise session.sampler.not_finite(torch.full((1,), torch.nan))
        return Rows(wanted.first, rows)


def not_open(session: int) -> BadRequest:
    """No rows of it are kept."""
    return BadRequest(f"Of session {session} no rows are kept here.")
