"""Sessions as the source sees them: opened on every stage of a ring, fed to the first, told by the last.

The source sends a prompt once; from then on token ids go from the last stage to the first without it. It hears every
token for streaming, ends sessions, and hands errors to whoever waits for a token. Sessions outlive rings: when another
one takes over they are pointed at it, and go on. Does not know text: see `shardnet.session.text`.
"""

from __future__ import annotations

import copy
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import torch

from shardnet.errors import ClusterError, DeviceLost, KVMemorySpent, PlanNotInForce, ShardnetError
from shardnet.process.forks import Birthplace
from shardnet.process.threads import Errands
from shardnet.session import alike
from shardnet.session.beginnings import Beginnings
from shardnet.session.closings import Closings
from shardnet.session.reading import rows_at_head
from shardnet.session.request import read_spec, scored_spec, session_spec
from shardnet.session.route import Ring, close_in, open_in, parts_of, send_ids, uncut
from shardnet.session.session import Session
from shardnet.transport.base import Transport
from shardnet.transport.delivery import Delivery, never
from shardnet.transport.listener_messages import Listener
from shardnet.transport.messages import Tokens
from shardnet.transport.rows_messages import Rows, RowsAsked
from shardnet.transport.session_messages import SamplingOptions, SessionSpec
from shardnet.transport.sharing_messages import NOTHING, Shares

ERRANDS_S = 1.0
"""How long it may take to begin to close those that were given up."""
SETTLE_S = 5.0
"""A start waits no longer than this for the memory of sessions that were closed."""
PROMPT_S = 15.0
"""The same for a prompt, which is taken when its turn comes; a lost device is noticed by other means."""
VERDICT_S = 3.0


class Sessions:
    """The sessions of one loaded model. Safe to use from several threads.

    They belong to whoever asked for them. One that nobody holds any more, because its stream was never read, is closed
    when the next token of it comes, or when the next session is started.
    """

    def __init__(
        self, transport: Transport, numbers: Iterator[int], ring: Ring, make_room: Callable[[], bool] = never
    ) -> None:
        """
        Args:
            numbers: gives the sessions their numbers, none of them twice in a cluster's life.
            ring: where they go at first.
            make_room: asked where a session does not fit; whether it may be worth another try.
        """
        self.ring = ring
        self._transport = transport
        self.make_room = make_room
        self.shares_prefixes = False
        """Whether a session may begin with what stages have of another one, and what they have of it stays."""
        self.cut: Callable[[Ring, int], Sequence[int]] = uncut
        """In chunks of what sizes so many ids go through a ring in which no other session is."""
        self._beginnings = Beginnings()
        self._numbers = numbers
        # Reentrant: what a device asks of itself runs before the call returns, and may end in an error of a session.
        self._lock = threading.RLock()
        self._resumed = threading.Condition(self._lock)
        self._is_suspended = False
        self._closed_meanwhile: set[int] = set()
        """Those whose end a stage may have heard of under a ring that is over."""
        self._open: set[int] = set()
        self._held: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        """Those of `_open` that somebody still holds."""
        self._closings = Closings(transport, self._is_ended)
        self._ended: ShardnetError | None = None
        self._cut_off: tuple[int, ...] = ()
        """The sessions that were open at the end."""
        self._birthplace = Birthplace("this model")
        self._errands = Errands("shardnet-sessions")

    def start(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...],
        sampling: SamplingOptions,
        stop: tuple[str, ...] = (),
        answer: Sequence[int] = (),
        listener: Listener | None = None,
    ) -> Session:
        """Open a session on every stage and send its prompt to the first. Waits while the sessions are suspended.

        Args:
            stop: for who keeps sessions for others; no stage knows text.
            answer: the first tokens of the answer, where it was begun before: they are told, and not sampled again.
            listener: another member that hears them straight.

        Raises:
            KVMemorySpent: a stage cannot hold its KV cache beside those of the other sessions.
            ShardnetError: the sessions were ended.
        """
        spec = session_spec(0, len(prompt_ids), max_new_tokens, eos_ids, sampling, listener)
        spec = spec._replace(stays=self.shares_prefixes)
        return self._start_in_room(spec, prompt_ids, answer)

    def score(self, ids: Sequence[int], num_alternatives: int = 0) -> Session:
        """The same for a text that is scored: its "answer" are its ids behind the first. Raises as `start`."""
        return self._start_in_room(scored_spec(0, ids, num_alternatives), ids[:-1], ())

    def read(self, ids: Sequence[int], rows: RowsAsked) -> Session:
        """The same for a text that is read: rows of it come by `Session.rows_from`. Raises as `start`."""
        spec = read_spec(0, ids, rows)
        return self._start_in_room(spec._replace(stays=spec.stays and self.shares_prefixes), ids, ())

    def rows_of(self, session: Session, first: int, patience_s: float) -> Rows:
        """See `reading.rows_at_head`."""
        number = session.spec.session
        return rows_at_head(self._transport, self, number, first, session.raise_if_failed, patience_s)

    def _start_in_room(self, spec: SessionSpec, prompt_ids: Sequence[int], answer: Sequence[int]) -> Session:
        try:
            return self._start(spec, prompt_ids, answer)
        except KVMemorySpent:
            if not self.make_room():
                raise
        return self._start(spec, prompt_ids, answer)

    def _start(self, asked: SessionSpec, prompt_ids: Sequence[int], answer: Sequence[int]) -> Session:
        spec = asked._replace(session=next(self._numbers))
        session = Session(self, spec, prompt_ids, answer)
        with self._lock:
            self.raise_if_ended()
            self._held[spec.session] = session
            self._open.add(spec.session)
        try:
            self._close_forgotten(list(self._open))
            self.settle()  # the memory that earlier sessions held must be free before this one asks for it
            shares = self._shared_by(session) if spec.stays else None
            while not self._has_begun(session, self._ring_when_resumed(), shares):
                shares = shares and NOTHING  # the ring was exchanged meanwhile: the next one is asked
            self.send(self.ring, session, session.num_shared, session.history[session.num_shared :])
        except BaseException:
            self.close_session(spec.session)
            raise
        return session

    def restore(self, spec: SessionSpec, prompt_ids: Sequence[int], answer: Sequence[int]) -> Session:
        """Take over a session that another process has begun. It goes on with the next `point_at`; until then these
        are to be suspended.

        Args:
            answer: what is known of it.
        """
        session = Session(self, spec, prompt_ids, answer, was_left=True)
        session.is_begun = True
        with self._lock:
            self._held[spec.session] = session
            self._open.add(spec.session)
        return session

    def suspend(self) -> None:
        """Begin no session until `point_at`. Those under way go on as long as their stages let them."""
        with self._lock:
            self._is_suspended = True
            self._closed_meanwhile.update(self._closings.under_way())
            self._resumed.notify_all()

    def under_way(self) -> list[Session]:
        """The sessions that have begun and not ended."""
        with self._lock:
            return [session for number, session in self._held.items() if number in self._open and session.is_begun]

    def point_at(self, ring: Ring) -> None:
        """From now on sessions go through `ring`, whose stages hold those that are under way."""
        with self._lock:
            self.ring = ring
            self._is_suspended = False
            closed, self._closed_meanwhile = self._closed_meanwhile, set()
            for session in closed:
                self._closings.begin(ring, session)
            self._resumed.notify_all()
            cut_off = self._cut_off
        close_in(self._transport, ring, cut_off)

    def close_strangers(self, sessions: Iterable[int]) -> None:
        """Free, with the next `point_at`, those that stages have and nobody here: their coordinator is no more."""
        with self._lock:
            self._closed_meanwhile.update(each for each in sessions if each not in self._open)

    def close_session(self, session: int) -> None:
        """Free a session on every stage. Unknown and closed ones are ignored."""
        if not self._birthplace.is_here:  # a forked child drops its copy of a stream
            return
        with self._lock:
            if session not in self._open:
                return
            closed = self._held.get(session)
            if closed is not None:
                closed.has_prompt.set()
                if closed.is_begun and closed.spec.stays:
                    self._beginnings.note(session, closed.history)
            if self._is_suspended:
                self._closed_meanwhile.add(session)
            if self._ended is None:
                self._closings.begin(self.ring, session)
            self._open.discard(session)  # last: whoever is interrupted before can close it again

    def is_open(self, session: int) -> bool:
        """Whether it goes on, or is about to."""
        return session in self._open

    def close_session_later(self, session: int) -> None:
        """The same on another thread: for who may hold locks that this takes, or that the transport does."""
        if self._birthplace.is_here and self.is_open(session):
            self._errands.do(partial(self.close_session, session))

    def settle(self) -> None:
        """Wait until every stage has freed the sessions that were closed; not for one that does not answer."""
        self._errands.settle(SETTLE_S)
        with self._lock:
            closings = self._closings.answers()
        wait(closings, timeout=SETTLE_S)
        with self._lock:
            self._closings.drop_done()

    def tell(self, tokens: Tokens) -> None:
        """Hand what was sampled to its sessions; closed ones no longer care."""
        for token in tokens.tokens:
            session = self._held.get(token.session)
            if session is None:
                self._close_forgotten([token.session])
            elif token.session in self._open:
                session.tell(token)

    def fail_session(self, session: int, error: ShardnetError) -> None:
        """One session cannot go on; the others do."""
        failed = self._held.get(session)
        if failed is not None:
            failed.tell(error)
        self.close_session(session)
        with self._lock:
            self._beginnings.forget(session)

    def end(self, error: ShardnetError) -> None:
        """For good: every session that waits, and every later `start`, gets `error`."""
        with self._lock:
            if self._ended is None:
                self._ended = error
            ring, numbers = self.ring, tuple(self._open)
            self._cut_off += numbers
            sessions = [session for number, session in self._held.items() if number in self._open]
            self._open.clear()
            self._resumed.notify_all()
        close_in(self._transport, ring, numbers)  # what is left of it must not go on computing for nobody
        self._errands.end(ERRANDS_S)
        for session in sessions:
            session.tell(self._ended)

    def raise_if_ended(self) -> None:
        """Raise what has ended the sessions, if they have ended."""
        if self._ended is not None:
            raise copy.copy(self._ended)

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def reserved_tokens(self) -> int:
        """For how many tokens the sessions under way have room on every stage."""
        return sum(session.spec.capacity_tokens for session in self.under_way())

    def _close_forgotten(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            if self._held.get(session) is None:
                self.close_session(session)

    def _ring_when_resumed(self) -> Ring:
        with self._resumed:
            self._resumed.wait_for(lambda: self._ended is not None or not self._is_suspended)
            self.raise_if_ended()
            return self.ring

    def ring_now(self, until_s: float) -> Ring | None:
        """See `InForce`."""
        with self._resumed:
            is_there = self._wait_until(until_s, lambda: self._ended is not None or not self._is_suspended)
            self.raise_if_ended()
            return self.ring if is_there else None

    def await_answer(self, ring: Ring, answer: Future[Any], until_s: float) -> bool:
        """See `InForce`."""
        answer.add_done_callback(self._wake)
        with self._resumed:
            self._wait_until(until_s, lambda: self._ended is not None or self._has_moved(ring) or answer.done())
        return answer.done()

    def _wait_until(self, until_s: float, is_so: Callable[[], bool]) -> bool:
        return self._resumed.wait_for(is_so, max(until_s - time.monotonic(), 0.0))

    def _shared_by(self, session: Session) -> Shares | None:
        """The session with which it is to begin."""
        with self._lock:
            others = [each for number, each in sorted(self._held.items()) if number in self._open]
            own = session.spec.session
            others = [each for each in others if each.spec.session < own or each.is_begun]
            shares, begun = alike.choice(alike.sharable(session), others, self._beginnings)
        alike.wait_for(begun)
        return shares

    def _has_begun(self, session: Session, ring: Ring, shares: Shares | None) -> bool:
        """Open a session on every stage of `ring`; False where another ring takes its place meanwhile."""
        asked = shares
        num_there, errors = self._opened(session, ring, shares)
        while shares is not None and not errors and len(set(num_there)) > 1:
            shares = Shares(shares.session, min(num_there))  # some have less: all are to begin with as much
            num_there, errors = self._opened(session, ring, shares)
        if any(isinstance(error, DeviceLost) for error in errors):
            self.await_verdict(ring)
        with self._lock:
            self.raise_if_ended()
            has_moved = self._has_moved(ring)
            session.is_begun = len(num_there) == len(ring.stops) and not has_moved
            if session.is_begun and asked is not None:
                session.num_shared = num_there[0]
                self._beginnings.settle(asked, session.num_shared)
        for error in errors:
            if not (has_moved and isinstance(error, ClusterError)):
                raise error
        return session.is_begun

    def _opened(self, session: Session, ring: Ring, shares: Shares | None) -> tuple[list[int], list[BaseException]]:
        """Ask every stage to open it: how many of its tokens each has, and what stages have answered instead."""
        specs = session.specs(len(ring.stops), shares)
        asked = [self.open_at(ring, index, spec) for index, spec in enumerate(specs)]
        errors = self._errors_of(asked, ring)
        return [each.result() for each in asked if each.done() and each.exception() is None], errors

    def _errors_of(self, asked: Sequence[Future[Any]], ring: Ring) -> list[BaseException]:
        """What stages have answered but yes. A frozen one is not waited for once another ring takes over."""
        for answer in asked:
            answer.add_done_callback(self._wake)
        with self._resumed:
            self._resumed.wait_for(
                lambda: self._ended is not None or self._has_moved(ring) or all(each.done() for each in asked)
            )
        return [error for each in asked if each.done() and (error := each.exception()) is not None]

    def _wake(self, _: Future[Any]) -> None:
        with self._resumed:
            self._resumed.notify_all()

    def _has_moved(self, ring: Ring) -> bool:
        return self._is_suspended or self.ring != ring

    def open_at(self, ring: Ring, stage: int, spec: SessionSpec) -> Future[Any]:
        """Open a session on one stage of a ring; asked until it answers."""
        return open_in(self._transport, ring, stage, spec, partial(self._is_over, spec.session))

    def send(self, ring: Ring, session: Session, position: int, ids: Sequence[int]) -> None:
        """Send token ids of a session, which stand at `position`, to the first stage of a ring. Does not wait."""
        spec = session.spec
        chunks = self.cut(ring, len(ids)) if len(self._open) == 1 else [len(ids)]
        parts = parts_of(spec.session, position, chunks)
        send = partial(send_ids, self._transport, ring, parts, torch.tensor(ids, dtype=torch.long))
        on_answer = partial(self._was_sent, spec.session, ring)
        is_over = partial(self._is_over, spec.session)
        Delivery(send, on_answer, first_s=PROMPT_S, is_over=is_over).begin()

    def _was_sent(self, session: int, ring: Ring, sent: Future[Any]) -> None:
        """Ids that did not arrive end their session. But if a device is lost, the cluster will say so and do more; and
        what a ring refuses since it is over, whoever exchanged it sends again.
        """
        error = sent.exception()
        if not isinstance(error, ShardnetError) or isinstance(error, DeviceLost):
            return
        with self._lock:
            is_refused = isinstance(error, PlanNotInForce) and self._has_moved(ring)
        if not is_refused:
            self.fail_session(session, error)

    def await_verdict(self, ring: Ring) -> None:
        """A connection broke: whoever watches the devices is about to say what becomes of the ring."""
        with self._resumed:
            self._resumed.wait_for(lambda: self._ended is not None or self._has_moved(ring), VERDICT_S)

    def _is_ended(self) -> bool:
        return self._ended is not None

    def _is_over(self, session: int) -> bool:
        return not self.is_open(session)
