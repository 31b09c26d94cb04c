"""Sessions on their way round the ring: prompts in chunks, then token after token, request after request."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from shardnet.policy.rebalance import Move, moves
from shardnet.policy.shape import MOST_BEHIND
from shardnet.simulator.engine import Engine, Leg
from shardnet.simulator.load import Load
from shardnet.simulator.result import Lap, Request
from shardnet.simulator.ring import prefill_legs, prompt_chunks, recovery_legs
from shardnet.simulator.way import Way


@dataclass
class _Session:
    """One place for a request, and how far the request is."""

    index: int
    tokens: int = 0
    """In its KV cache."""
    left: int = 0
    began_s: float = 0.0
    lap_began_s: float = 0.0
    first_token_s: float | None = None
    plan_version: int = 0
    epoch: int = 0
    """Work of an earlier epoch is void: the session was started again after a loss."""
    active: bool = False
    is_delayed: bool = False
    """By a repair."""


class Conversations:
    """All sessions of a run.

    Args:
        absent: the devices that are not there now.
    """

    def __init__(self, engine: Engine, way: Way, load: Load, absent: Callable[[], Collection[str]]) -> None:
        self.laps: list[Lap] = []
        self.requests: list[Request] = []
        self._engine, self._way, self._load, self._absent = engine, way, load, absent
        self._sessions = [_Session(index) for index in range(min(load.in_flight, load.num_requests))]
        self._waiting = load.num_requests - len(self._sessions)
        self._at_token: dict[int, list[Callable[[], None]]] = {}
        self.moving_s = 0.0
        """Seconds of all sessions in which they waited for units that moved."""
        self.num_delayed = 0
        """Requests that waited for a repair."""
        self._num_first = 0
        """Tokens of the first session, all its requests together."""

    @property
    def are_going_on(self) -> bool:
        return any(session.active for session in self._sessions)

    @property
    def num_tokens(self) -> int:
        return len(self.laps) + sum(request.first_token_s is not None for request in self.requests)

    def begin(self) -> None:
        """Start the first request of every session."""
        for session in self._sessions:
            self._start_request(session)

    def at_token(self, number: int, action: Callable[[], None]) -> None:
        """Do something as soon as the first session has so many tokens."""
        self._at_token.setdefault(number, []).append(action)

    @property
    def num_cached(self) -> int:
        """Tokens in the caches of all sessions."""
        return sum(session.tokens for session in self._sessions if session.active)

    @property
    def num_active(self) -> int:
        return sum(session.active for session in self._sessions)

    @property
    def under_way_s(self) -> float:
        """How long the requests have taken so far that are not over."""
        return sum(self._engine.now_s - session.began_s for session in self._sessions if session.active)

    def delay_all(self) -> None:
        """Every session waited for a repair."""
        for session in self._sessions:
            if session.active and not session.is_delayed:
                session.is_delayed = True
                self.num_delayed += 1

    def are_all_under(self, version: int) -> bool:
        """Whether every session goes by this plan."""
        return all(session.plan_version == version for session in self._sessions if session.active)

    def start_again(self) -> None:
        """What was on its way is lost: every session starts again at the token that it waits for."""
        for session in self._sessions:
            if session.active:
                session.epoch += 1
                self._move(session, session.lap_began_s)

    def _start_request(self, session: _Session) -> None:
        session.active, session.is_delayed = True, False
        session.began_s, session.first_token_s = self._engine.now_s, None
        session.tokens, session.left = 0, self._load.new_tokens
        session.plan_version = self._way.plan.version
        self._enter(session)

    def _enter(self, session: _Session) -> None:
        """Start, or start again, where the session is: in its prompt or at its next token."""
        if session.tokens < self._load.prompt_tokens:
            self._prefill(session)
        else:
            session.tokens = max(session.tokens, 1)
            self._next_lap(session)

    def _prefill(self, session: _Session) -> None:
        """Chunks follow each other as soon as the first stage is free: a prompt fills the pipeline."""
        size, left = self._load.prefill_chunk, self._load.prompt_tokens - session.tokens
        way, stages, profiled = self._way, self._way.plan.stages, self._load.chunk_tokens
        if self.num_active == 1:
            chunks = prompt_chunks(way.problem, stages, left, size, profiled)
        else:
            chunks = [min(size, left - start) for start in range(0, left, size)]

        def send(number: int) -> None:
            is_last = number == len(chunks) - 1
            legs = prefill_legs(way.problem, stages, way.roads, chunks[number], is_last, profiled)
            after_first = None if is_last else lambda: send(number + 1)
            done = self._first_token if is_last else partial(self._read, chunks[number])
            self._walk(session, legs, done, after_first)

        send(0)

    def _read(self, num_tokens: int, session: _Session) -> None:
        """All stages have a chunk of the prompt."""
        session.tokens += num_tokens

    def _first_token(self, session: _Session) -> None:
        session.first_token_s = self._engine.now_s
        session.tokens = self._load.prompt_tokens + 1
        self._count(session)
        self._go_on(session)

    def _count(self, session: _Session) -> None:
        """One more token."""
        session.left -= 1
        if session.index == 0:
            self._num_first += 1
            for action in self._at_token.pop(self._num_first, ()):
                action()

    def _next_lap(self, session: _Session) -> None:
        session.lap_began_s = self._engine.now_s
        self._walk(session, self._way.lap(), self._end_lap)

    def _end_lap(self, session: _Session) -> None:
        self.laps.append(Lap(session.index, session.lap_began_s, self._engine.now_s))
        session.tokens += 1
        self._count(session)
        self._go_on(session)

    def _go_on(self, session: _Session) -> None:
        if session.left > 0:
            if session.plan_version != self._way.plan.version:
                self._move(session, self._engine.now_s)
            else:
                self._next_lap(session)
            return
        self.requests.append(Request(session.index, session.began_s, session.first_token_s, self._engine.now_s))
        session.active = False
        if self._may_begin():
            self._start_request(session)
        elif not self.are_going_on:
            self._engine.stop()

    def _may_begin(self) -> bool:
        """Another request."""
        if self._load.duration_s is not None:
            return self._engine.now_s < self._load.duration_s
        self._waiting -= 1
        return self._waiting >= 0

    def _move(self, session: _Session, began_s: float) -> None:
        """Fetch or recompute what the new plan puts elsewhere, then go on with the token that began at `began_s`."""
        way, began_moving_s = self._way, self._engine.now_s
        gone = self._absent() if way.came.copied is not None else way.problem.index
        moved = moves(way.plan_of(session.plan_version), way.plan, gone)
        version = way.plan.version

        def go_on(session: _Session) -> None:
            session.plan_version = version
            self.moving_s += self._engine.now_s - began_moving_s
            self._enter(session)
            session.lap_began_s = began_s  # the wait is part of this token's lap

        if session.tokens and moved:
            legs = recovery_legs(way.problem, way.plan.stages, way.roads, moved, partial(self._lacking, session))
            self._walk(session, legs, go_on)
        else:
            session.plan_version = version
            self._enter(session)
            session.lap_began_s = began_s

    def _lacking(self, session: _Session, move: Move) -> int:
        """Tokens of the session that the new owner of a unit has not."""
        last, came = min(session.tokens, MOST_BEHIND), self._way.came
        if move.source is not None and came.copied is not None:
            return max(last, math.ceil((1 - came.copied) * session.tokens))
        return last if (move.target, move.unit) in came.hot else session.tokens

    def _walk(
        self,
        session: _Session,
        legs: Sequence[Leg],
        done: Callable[[_Session], None] | None,
        after_first: Callable[[], None] | None = None,
    ) -> None:
        """Leg by leg; `done(session)` at the end, `after_first()` when the first leg is over."""
        epoch = session.epoch

        def step(position: int) -> None:
            if position == 1 and after_first is not None:
                after_first()
            if position == len(legs):
                if done is not None:
                    done(session)
                return
            self._engine.do(session.index, legs[position], lambda: session.epoch == epoch, lambda: step(position + 1))

        step(0)
