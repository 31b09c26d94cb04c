"""The sessions of a stage that is prepared to take over units: copies of what their owners have of them.

A copied session is open here and takes part in no step. It stands where all owners' copies reach; what one of them is
ahead is there already. When the stage is told what the next one has (`Onward.send_again`), the sessions of which it is
told go on as all others, and the rest is dropped.

A session's keys and values are the same wherever they were computed: so nothing is copied twice when others become the
owners of the units.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from shardnet.codecs.rows import codec_for
from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.models import Shard
from shardnet.models.kv import BlockKV
from shardnet.stage.cache import KVCache
from shardnet.stage.constraint import Matchers
from shardnet.stage.copies import blocks_of
from shardnet.stage.live_session import LiveSession
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.sampling import sampler_of
from shardnet.stage.token_rows import Tokens, width_of
from shardnet.transport.messages import Copied, CopyWanted, HeldCopy, OwnedSession, Part
from shardnet.transport.session_messages import SessionSpec


@dataclass(slots=True)
class _Copy:
    """Of one session."""

    live: LiveSession
    reached: dict[int, int]
    """Of each unit: so many tokens were copied."""
    sent_from: int = 0
    """What was sent was copied from this position on."""

    def length_in(self, units: range) -> int:
        return min(self.reached[unit] for unit in units)


class FollowedSessions:
    """
    Args:
        lock: guards which sessions are open, and how far they are.
        sent_as: see `sampler_of`; so is `matchers`.
    """

    def __init__(
        self,
        shard: Shard,
        kv: KVCache,
        sessions: LiveSessions,
        lock: threading.Condition,
        sent_as: str,
        matchers: Matchers,
    ) -> None:
        self._shard = shard
        self._kv = kv
        self._sessions = sessions
        self._lock = lock
        self._sent_as = sent_as
        self._matchers = matchers
        self._copies: dict[int, _Copy] = {}
        self._without_room: dict[int, SessionSpec] = {}

    # ---- for the compute thread, between two steps ----

    def wanted(self, first_unit: int, last_unit: int, *, most_bytes: int, patience_s: float) -> CopyWanted:
        """What to ask of the owner of some of the units."""
        units = range(first_unit, last_unit + 1)
        with self._lock:
            for spec in sorted(self._without_room.values(), key=lambda spec: spec.session):
                self._open(spec)
            held = tuple(self._held(copy, units) for copy in self._copies.values())
            is_end = last_unit == self._shard.last_unit
            return CopyWanted(first_unit, last_unit, is_end, held, tuple(self._without_room), most_bytes, patience_s)

    def take(self, wanted: CopyWanted, copied: Copied) -> bool:
        """Keep what the owner has answered; whether that was all that it has of the sessions that fit here.

        Raises:
            BadRequest: it is not what was asked for.
        """
        blocks = blocks_of(self._shard, wanted.first_unit, wanted.last_unit)
        units = range(wanted.first_unit, wanted.last_unit + 1)
        self._check(copied, blocks)
        sent = copied.sent if self._keeps_as(copied.sent) else None
        with self._lock:
            for spec in copied.opened:
                self._open(spec)
            fits = [self._comes_next(part, units) for part in copied.parts]
            parts = [part for part, is_next in zip(copied.parts, fits, strict=True) if is_next]
            in_copy = self._sessions.begin_step(parts)
        try:
            tokens = Tokens(parts, [session.kv for session in in_copy])
            tokens.write_blocks(blocks, _rows_of(copied.rows, copied.parts, fits))
            if sent is not None:
                tokens.write_sent(_rows_of(sent, copied.parts, fits))
        finally:
            with self._lock:
                self._sessions.end_step()
        with self._lock:
            for part in parts:
                self._note_reached(part, units)
            is_through = [self._learn(state, wanted, units, has_sent=sent is not None) for state in copied.sessions]
        for state in copied.sessions:
            self._wind(state)
        return all(is_through)

    def _wind(self, state: OwnedSession) -> None:
        """Draw in advance what the owner has drawn: the longer an answer is, the longer it takes. Without the lock."""
        copy = self._copies.get(state.session)
        if copy is not None and copy.live.sampler is not None and state.num_scores:
            copy.live.sampler.wind(copy.live.sample_from - copy.live.spec.prompt_tokens, state.num_scores)

    def drop_others(self, listed: Collection[int]) -> None:
        """All but these are open at no owner any more."""
        with self._lock:
            for session in [*self._copies.keys() - listed, *self._without_room.keys() - listed]:
                self._drop(session)

    def trim(self) -> None:
        """The stage has fewer units by now: what was copied of others is forgotten, and what another last one sent."""
        shard = self._shard
        with self._lock:
            for copy in self._copies.values():
                if shard.last_unit < max(copy.reached):
                    copy.sent_from = copy.reached[shard.last_unit]
                copy.reached = {unit: copy.reached[unit] for unit in range(shard.first_unit, shard.last_unit + 1)}

    def forget_sent(self) -> None:
        """The stage sends in another codec by now: what was copied of what was sent is of no use."""
        with self._lock:
            for copy in self._copies.values():
                copy.sent_from = copy.reached[self._shard.last_unit]

    def end(self) -> None:
        """Nothing is copied any more; what was copied stays."""
        with self._lock:
            self._copies.clear()
            self._without_room.clear()

    # ---- for any thread ----

    def copied_bytes(self) -> int:
        """What the copied sessions have reserved."""
        with self._lock:
            return sum(copy.live.kv.capacity for copy in self._copies.values()) * self._kv.bytes_per_token

    def drop_newest(self) -> bool:
        """Give the memory of the newest copied session to others; False where there is none."""
        with self._lock:
            if not self._copies:
                return False
            newest = max(self._copies)
            spec = self._copies[newest].live.spec
            self._drop(newest)
            self._without_room[newest] = spec
            return True

    # ---- the caller holds the lock ----

    def _open(self, spec: SessionSpec) -> None:
        if spec.session in self._copies or self._sessions.get(spec.session) is not None:
            return
        try:
            live = self._sessions.hold(spec, sampler_of(spec, self._shard, self._sent_as, self._matchers))
        except (KVMemorySpent, BadRequest):
            self._without_room[spec.session] = spec
            return
        self._without_room.pop(spec.session, None)
        units = range(self._shard.first_unit, self._shard.last_unit + 1)
        self._copies[spec.session] = _Copy(live, dict.fromkeys(units, 0))

    def _drop(self, session: int) -> None:
        self._without_room.pop(session, None)
        copy = self._copies.pop(session, None)
        if copy is not None and self._sessions.get(session) is copy.live:
            self._sessions.drop(session)

    def _held(self, copy: _Copy, units: range) -> HeldCopy:
        live = copy.live
        return HeldCopy(live.spec.session, copy.length_in(units), len(live.came), live.kept_from + len(live.sampled))

    def _comes_next(self, part: Part, units: range) -> bool:
        """Whether these tokens follow those that are there, of a session that still is."""
        copy = self._copies.get(part.session)
        if copy is None or self._sessions.get(part.session) is not copy.live:
            return False
        return part.position <= copy.length_in(units) and part.end <= copy.live.kv.capacity

    def _note_reached(self, part: Part, units: range) -> None:
        copy = self._copies.get(part.session)
        if copy is not None:
            for unit in units:
                copy.reached[unit] = max(copy.reached[unit], part.end)

    def _learn(self, state: OwnedSession, wanted: CopyWanted, units: range, *, has_sent: bool) -> bool:
        """What the owner knows of a session; whether all that it has was copied, or there is no room for it."""
        copy = self._copies.get(state.session)
        if copy is None:
            return True
        live = copy.live
        if wanted.first_unit == 0 and state.came_from <= len(live.came):
            live.came.extend(state.came[len(live.came) - state.came_from :])
        if wanted.is_end and live.sampler is not None:
            if not _learn_sampled(live, state):
                self._drop(state.session)
                return False
        elif wanted.is_end:
            copy.sent_from = max(copy.sent_from, state.kept_from if has_sent else copy.length_in(units))
        live.kv.length = live.certain = max(live.kv.length, min(copy.reached.values()))
        live.branch = max(live.branch, state.branch)
        if live.sampler is None:
            live.kept_from = min(copy.sent_from, live.kv.length)
        return copy.length_in(units) >= state.length

    def _check(self, copied: Copied, blocks: Sequence[BlockKV]) -> None:
        """
        Raises:
            BadRequest: rows are not those of these blocks, or not as many as the parts say.
        """
        num_tokens = sum(part.num_tokens for part in copied.parts)
        fits = copied.rows.shape == (num_tokens, width_of(blocks)) and copied.rows.dtype == self._shard.kv_row_dtype
        if copied.sent is not None:
            fits = fits and len(copied.sent) == num_tokens and not self._shard.has_head
            fits = fits and codec_for(copied.sent, self._shard.config.hidden_size) is not None
        if not fits or any(part.num_tokens < 1 or part.position < 0 for part in copied.parts):
            raise BadRequest(f"Rows of {copied.rows.dtype} and shape {tuple(copied.rows.shape)} were not asked for.")

    def _keeps_as(self, sent: torch.Tensor | None) -> bool:
        """Whether what the owner has sent is in this stage's codec: not while one of them is about to change."""
        kept = self._kv.kept
        return sent is not None and sent.dtype == kept.dtype and sent.shape[1] == kept.width


def _rows_of(rows: torch.Tensor, parts: Sequence[Part], fits: Sequence[bool]) -> torch.Tensor:
    """Of those parts that fit."""
    own = rows.split([part.num_tokens for part in parts])
    chosen = [some for some, is_next in zip(own, fits, strict=True) if is_next]
    return rows if len(chosen) == len(own) else torch.cat([rows[:0], *chosen])


def _learn_sampled(live: LiveSession, state: OwnedSession) -> bool:
    """Note the ids that the owner has sampled; False where some between are unknown to both."""
    known_to = live.kept_from + len(live.sampled)
    if state.sampled_from > known_to:
        return False
    for token_id in state.sampled[known_to - state.sampled_from :]:
        live.note_sampled(token_id)
    live.is_over = live.is_over or state.is_over
    return True
