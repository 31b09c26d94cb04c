"""The sessions of one stage: which are open, which were closed, which are in the step that runs. No lock: see `stage`.

Who is closed in the middle of a step keeps its rows until the step ends, for the step writes to them.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shardnet.errors import BadRequest, KVMemorySpent, ShardnetError
from shardnet.models.kv import BlockKV
from shardnet.speculation.lineage import Line, begun_anew
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept
from shardnet.stage.inbox import Standing
from shardnet.stage.live_session import LiveSession, begun_at, digest_before
from shardnet.stage.row_memory import RowMemory
from shardnet.stage.sampling import Sampler
from shardnet.stage.session_cache import SessionCache
from shardnet.transport.messages import Part
from shardnet.transport.session_messages import SessionSpec
from shardnet.transport.sharing_messages import Shares, num_alike

MAX_CLOSED_KEPT = 4096
"""Numbers of closed sessions that a stage remembers, lest an order to open one that comes late opens it again."""


def none() -> None:
    """Nothing is kept."""


class _Leaving(NamedTuple):
    """A session that is closed, and whose memory a step may be writing to."""

    number: int
    kv: SessionCache
    live: LiveSession | None
    """Where it may stay."""


class LiveSessions:
    """Those of one stage, whose caches are in `kv`.

    Args:
        is_first: whether it is the ring's first one.
    """

    def __init__(self, kv: KVCache, *, is_first: bool = False) -> None:
        self._kv = kv
        self.is_first = is_first
        self._branch = 0
        """With which sessions begin here."""
        self._open: dict[int, LiveSession] = {}
        self._closed: deque[int] = deque(maxlen=MAX_CLOSED_KEPT)
        self._in_step: frozenset[int] = frozenset()
        self._leaving: list[_Leaving] = []

    def __len__(self) -> int:
        return len(self._open)

    @property
    def kept(self) -> Kept:
        """What is kept of each token beside keys and values."""
        return self._kv.kept

    @property
    def num_decoding(self) -> int:
        """Those that are past their prompt, and not at their end."""
        return sum(
            live.spec.prompt_tokens <= live.kv.length < live.spec.capacity_tokens for live in self._open.values()
        )

    def open(self, spec: SessionSpec, sampler: Sampler | None, memory: Callable[[], RowMemory | None] = none) -> int:
        """Reserve the session's memory. May be asked twice, and has no effect then.

        Returns how many of its tokens are there: see `sharing_messages`.

        One that is open, and of which what was sent is not kept from `send_from` on, or what was sampled not from
        `sample_from` on, begins anew. One that is held keeps its tokens.

        Args:
            memory: takes what its hidden states are kept in, where they are.

        Raises:
            KVMemorySpent: it does not fit beside those of the other sessions.
            BadRequest: the session was closed already: this order was overtaken. Or it is open, and keeps what it must.
                Or the spec contradicts itself.
        """
        if spec.session in self._closed:
            raise BadRequest(f"Session {spec.session} was closed before it was opened here.")
        if not 0 <= spec.prompt_tokens <= spec.sample_from <= spec.capacity_tokens or spec.send_from < 0:
            raise BadRequest(
                f"Session {spec.session} has {spec.prompt_tokens} tokens of a prompt, {spec.sample_from} before the "
                f"next one, and room for {spec.capacity_tokens}: it cannot be opened."
            )
        shares, spec = spec.shares, spec._replace(shares=None)
        live = self._open.get(spec.session)
        if live is not None and live.kept_from > (spec.send_from if live.sampler is None else spec.sample_from):
            self._leave(spec.session)
        elif live is not None and live.spec == spec:
            if shares is not None:
                live.share_at_most(shares.most_tokens)
            if live.is_untouched:  # it was opened for a ring that was exchanged before it began
                live.guess_from = spec.guess_from
            return live.kv.length
        elif live is not None and live.is_held:
            self._open[spec.session] = begun_at(live, spec, sampler)
            return live.kv.length
        kv, came = self._opened(spec, shares)
        rows = self._rows_of(spec, memory)
        kept_from = 0 if sampler is None else spec.sample_from
        next_sent = max(spec.send_from, kv.length, kept_from)
        live = LiveSession(
            spec,
            kv,
            sampler,
            spec.sample_from,
            next_sent,
            kept_from,
            came=came,
            digest=digest_before(spec),
            num_shared=kv.length,
            rows=rows,
        )
        live.branch, live.guess_from = self._branch, spec.guess_from
        live.certain = live.branch_from = kv.length
        live.told = max(spec.send_from, kv.length)
        self._open[spec.session] = live
        return kv.length

    def _rows_of(self, spec: SessionSpec, memory: Callable[[], RowMemory | None]) -> RowMemory | None:
        """Of one whose other memory is there, and freed where there is none for them."""
        try:
            return memory()
        except ShardnetError:
            self._kv.close(spec.session)
            raise

    def _opened(self, spec: SessionSpec, shares: Shares | None) -> tuple[SessionCache, array[int]]:
        """The memory of a new session, and the ids of the tokens that it begins with. One at least is computed."""
        came, num_there = self._came_of(shares.session) if shares is not None else (array("q"), 0)
        computed_from = spec.sample_from - 1 if spec.rows is None else min(spec.rows.first, spec.sample_from - 1)
        num_tokens = 0 if shares is None else min(num_there, shares.most_tokens, computed_from)
        if shares is not None and self.is_first:  # which compares ids
            num_tokens = min(num_tokens, num_alike(array("q", shares.ids), came))
        if shares is None or num_tokens < 1:
            return self._kv.open(spec.session, spec.capacity_tokens), array("q")
        kv = self._kv.open_alike(spec.session, spec.capacity_tokens, shares.session, num_tokens)
        return kv, came[: kv.length]

    def _came_of(self, session: int) -> tuple[array[int], int]:
        """Of a session with which another one may begin: the ids that have come, and how many tokens are there."""
        live, recent = self._open.get(session), self._kv.recent(session)
        if live is not None:
            return live.came, live.safe_length if live.can_share else 0
        return (array("q"), 0) if recent is None else (recent.came, recent.kv.length)

    def hold(self, spec: SessionSpec, sampler: Sampler | None) -> LiveSession:
        """Open a session that is copied from another stage. Errors as in `open`."""
        self.open(spec._replace(shares=None), sampler)
        live = self._open[spec.session]
        live.is_held = True
        return live

    def close(self, sessions: Sequence[int]) -> None:
        """Free their memory, or let it stay; unknown ones are not opened any more."""
        self._closed.extend(sessions)
        for session in sessions:
            self._leave(session, may_stay=True)

    def drop(self, session: int) -> None:
        """Free the memory of a session that may be opened again."""
        self._leave(session)

    def drop_held(self) -> None:
        """The same of all that are held."""
        for session in [number for number, live in self._open.items() if live.is_held]:
            self._leave(session)

    def close_all(self) -> None:
        """Nothing stays."""
        self._closed.extend(self._open)
        for session in list(self._open):
            self._leave(session)
        self._leaving = [each._replace(live=None) for each in self._leaving]
        self._kv.drop_recent()

    def turn(self, lines: Mapping[int, Line]) -> None:
        """What came makes this of sessions. Of those at the first stage, ids do not: see `front`."""
        if not self.is_first:
            for number, line in lines.items():
                self._open[number].turn(line)

    def begin_ring(self, branch: int) -> None:
        """The stage sends along another ring, whose first branch that is, from now on."""
        self._branch = branch
        for live in self._open.values():
            live.give_up_guesses()
            live.branch, _, live.certain, live.branch_from = begun_anew(live.line, branch)
            live.guess_from = live.spec.capacity_tokens

    def give_up_guesses(self) -> None:
        """Have no token that is a guess. Between two rings, when nothing goes on before the stage hears what is
        wanted.
        """
        for live in self._open.values():
            live.give_up_guesses()

    def trim(self, layout: Sequence[BlockKV], kept: Kept, *, has_new_end: bool) -> None:
        """The stage has these blocks alone, and keeps this of each token. Between two steps.

        With a new end, what was sent before is forgotten.

        The newest sessions end here where there is no room for all any more: see `KVCache.trim`.
        """
        while True:
            try:
                self._kv.trim(layout, kept, forgets=has_new_end)
                break
            except KVMemorySpent:
                number, _ = self._open.popitem()
                self._kv.close(number)
        for live in self._open.values():
            if has_new_end:
                live.forget_sent()

    def forget_ids(self) -> None:
        """The stage is not the ring's first any more."""
        self.is_first = False
        for live in self._open.values():
            live.came, live.guesser = array("q"), None

    def is_in_step(self, session: int) -> bool:
        """Whether the step that runs adds to it; it may have been closed meanwhile."""
        return session in self._in_step

    def give(self) -> LiveSessions:
        """All of them, for another stage: they are not open here any more."""
        given = LiveSessions(self._kv)
        given._open, self._open = self._open, {}
        given._closed.extend(self._closed)
        return given

    def join(self, other: LiveSessions) -> None:
        """The stage has the units of another one, too, and what is sent is what that has sent. Between two steps, and
        when the caches were joined: who is not in them is open no more.
        """
        own, self._open = self._open, {}
        for number, here in own.items():
            if number in self._kv:
                live = self._open[number] = other._open[number]
                live.kv, live.came = here.kv, here.came
                live.branch = max(live.branch, here.branch)
                live.certain = live.branch_from = live.kv.length
                live.guess_from = here.guess_from
                if here.guesser is not None and here.guesser.num_known <= live.kv.length:  # else some come once more
                    live.guesser = here.guesser
                guess_key = live.spec.guess_key or here.spec.guess_key
                live.spec = live.spec._replace(guess_key=guess_key, offer_key=here.spec.offer_key)
                if live.sampler is None:
                    live.kept_from = min(live.kept_from, live.kv.length)
        self._closed.extend(other._closed)

    def standing(self, session: int) -> Standing | None:
        """See `Inbox.take`."""
        live = self._open.get(session)
        if live is None:
            return None
        length, branch = (live.safe_length, 0) if self.is_first else (live.kv.length, live.branch)
        samples = live.sampler is not None and live.sample_from > length
        stop = live.sample_from if samples else None
        return Standing(length, live.kv.capacity, stop, live.is_held, branch, live.certain)

    def get(self, session: int) -> LiveSession | None:
        """None where it is not open."""
        return self._open.get(session)

    def all(self) -> list[LiveSession]:
        """Those that are open, oldest first."""
        return list(self._open.values())

    def begin_step(self, parts: Sequence[Part]) -> list[LiveSession]:
        """The sessions of a step, which begins."""
        self._in_step = frozenset(part.session for part in parts)
        return [self._open[part.session] for part in parts]

    def advance(self, parts: Sequence[Part], sessions: Sequence[LiveSession], wrong: Mapping[int, int]) -> None:
        """Count the tokens that a step of these sessions has appended; also of one that was closed in it and stays.

        Args:
            wrong: of a part, by its index, so many at its end where the head is: they were guessed wrong.
        """
        staying = [each.live for each in self._leaving]
        for index, (part, session) in enumerate(zip(parts, sessions, strict=True)):
            num_right = part.num_tokens - wrong.get(index, 0)
            if self._open.get(part.session) is session:
                assert part.position == session.kv.length and part.branch == session.branch, (part, session.line)
                self._kv.advance(part.session, num_right)
            elif any(live is session for live in staying):
                session.kv.length += num_right
            else:
                continue
            session.note_applied(part, num_right)

    def end_step(self) -> None:
        """Free what was closed since it began."""
        self._in_step = frozenset()
        leaving, self._leaving = self._leaving, []
        for each in leaving:
            self._let_go(each)

    def _leave(self, session: int, *, may_stay: bool = False) -> None:
        """Free its memory, when the step that it may be in has ended; nothing where it is not open.

        Args:
            may_stay: others may begin with its tokens.
        """
        live = self._open.pop(session, None)
        kv = None if live is None else self._kv.forget(session)
        if live is None or kv is None:
            return
        stays = may_stay and live.spec.stays and live.can_share
        leaving = _Leaving(session, kv, live if stays else None)
        if session in self._in_step:
            self._leaving.append(leaving)
        else:
            self._let_go(leaving)

    def _let_go(self, leaving: _Leaving) -> None:
        session, kv, live = leaving
        if live is None:
            self._kv.free(kv)
        else:
            live.give_up_guesses()
            self._kv.keep(session, kv, live.came[: kv.length])
