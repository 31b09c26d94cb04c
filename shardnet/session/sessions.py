"""Sessions through the ring, as the source sees them: opened on every stage, fed to the first, told by the last.

The source sends a prompt once; from then on token ids go from the last stage to the first without it. It hears every
token for streaming, ends sessions, and hands errors to whoever waits for a token. Does not know text: see
`shardnet.session.text`.
"""

from __future__ import annotations

import copy
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import torch

from shardnet.errors import DeviceLost, ShardnetError
from shardnet.process.forks import Birthplace
from shardnet.timeline.clocks import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.delivery import Delivery, answer_of
from shardnet.transport.messages import (
    Hop,
    Part,
    RingId,
    RingStop,
    SampledToken,
    SamplingOptions,
    SessionSpec,
    Tokens,
)

OPEN_SESSION_S = 5.0
OPEN_SESSION_TRIES = 4
"""After 5, 10, 20 and 40 s a stage that does not say whether it has room is given up."""
CLOSE_SESSION_S = 1.0
"""After so long without an answer, a stage is told again to free a session."""
SETTLE_S = 5.0
"""A start waits no longer than this for the memory of sessions that were closed."""
PROMPT_S = 15.0
"""The same for a prompt, which is taken when its turn comes; a lost device is noticed by other means."""
VERDICT_S = 3.0


class Session:
    """One conversation in flight. Iterate over it for its tokens; it is closed when the iteration ends.

    Raises (from the iteration):
        ShardnetError: the ring broke; `DeviceLost` names the device and the stage.
    """

    def __init__(self, pipeline: Pipeline, spec: SessionSpec) -> None:
        self.spec = spec
        self.started_s = time.monotonic()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self._pipeline = pipeline
        self._news: queue.SimpleQueue[SampledToken | BaseException | None] = queue.SimpleQueue()
        self._held: dict[int, SampledToken] = {}

    def __iter__(self) -> Iterator[SampledToken]:
        """The tokens in order; news may overtake each other on their way, and come twice. Ends early after `cancel`."""
        try:
            for index in itertools.count():
                while index not in self._held:
                    news = self._news.get()
                    if news is None:
                        return
                    if isinstance(news, BaseException):
                        raise copy.copy(news)  # other sessions raise it at the same time
                    if news.index >= index:
                        self._held[news.index] = news
                token = self._held.pop(index)
                yield token
                if token.finish_reason:
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop generating and free the session's memory on every stage. Safe to call twice, from any thread."""
        self._news.put(None)
        self._pipeline.close_session(self.spec.session)

    def tell(self, news: SampledToken | BaseException) -> None:
        if isinstance(news, SampledToken):
            self.last_token_s = time.monotonic()
            if self.first_token_s is None:
                self.first_token_s = self.last_token_s
        self._news.put(news)


class Pipeline:
    """The ring of one plan. Safe to use from several threads.

    Sessions belong to whoever asked for them. One that nobody holds any more, because its stream was never read, is
    closed when the next token of it comes, or when the next session is started.
    """

    def __init__(
        self, transport: Transport, ring_id: RingId, ring: tuple[RingStop, ...], numbers: Iterator[int]
    ) -> None:
        """
        Args:
            numbers: gives the sessions their numbers, none of them twice in a cluster's life.
        """
        self.ring_id = ring_id
        self.ring = ring
        self._transport = transport
        self._numbers = numbers
        # Reentrant: the garbage collector may end a forgotten iteration anywhere, and this closes its session.
        self._lock = threading.RLock()
        self._open: set[int] = set()
        self._sessions: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        """Those of `_open` that somebody still holds."""
        self._closings: list[Future[Any]] = []
        self._broken: ShardnetError | None = None
        self._has_verdict = threading.Event()
        self._birthplace = Birthplace("this model")

    def start(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...],
        sampling: SamplingOptions,
    ) -> Session:
        """Open a session on every stage and send its prompt to the first.

        Raises:
            KVMemorySpent: a stage cannot hold its KV cache beside those of the other sessions.
            ShardnetError: the ring is broken.
        """
        spec = SessionSpec(
            session=next(self._numbers),
            capacity_tokens=len(prompt_ids) + max_new_tokens,
            prompt_tokens=len(prompt_ids),
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            sampling=sampling,
        )
        session = Session(self, spec)
        with self._lock:
            self.raise_if_broken()
            self._sessions[spec.session] = session
            self._open.add(spec.session)
        try:
            self._close_forgotten(list(self._open))
            self.settle()  # the memory that earlier sessions held must be free before this one asks for it
            self._open_everywhere(spec, tuple(prompt_ids))
            self._send_prompt(session, prompt_ids)
        except BaseException as error:
            if isinstance(error, DeviceLost):
                self._wait_for_verdict()
            self.close_session(spec.session)
            raise
        return session

    def close_session(self, session: int) -> None:
        """Free a session on every stage. Unknown and closed ones are ignored."""
        if not self._birthplace.is_here:  # a forked child drops its copy of a stream
            return
        with self._lock:
            if session not in self._open:
                return
            if self._broken is None:
                for index, stop in enumerate(self.ring):
                    self._closings.append(self._close_at(index, stop, session))
            self._open.discard(session)  # last: whoever is interrupted before can close it again

    def _close_at(self, index: int, stop: RingStop, session: int) -> Future[Any]:
        def send(wait_s: float) -> Future[Any]:
            return self._transport.post(
                stop.device, "close_sessions", self.ring_id, index, (session,), timeout_s=wait_s
            )

        return answer_of(send, first_s=CLOSE_SESSION_S, is_over=self._is_broken)

    def settle(self) -> None:
        """Wait until every stage has freed the sessions that were closed; not for one that does not answer."""
        with self._lock:
            closings = list(self._closings)
        wait(closings, timeout=SETTLE_S)
        with self._lock:
            self._closings = [closing for closing in self._closings if not closing.done()]

    def tell(self, tokens: Tokens) -> None:
        """The endpoint `tokens`: hand what was sampled to its sessions; closed ones no longer care."""
        for token in tokens.tokens:
            session = self._sessions.get(token.session)
            if session is None:
                self._close_forgotten([token.session])
            elif token.session in self._open:
                session.tell(token)

    def fail_session(self, session: int, error: ShardnetError) -> None:
        """One session cannot go on; the others do."""
        failed = self._sessions.get(session)
        if failed is not None:
            failed.tell(error)
        self.close_session(session)

    def fail(self, error: ShardnetError) -> None:
        """The ring broke: every session that waits, and every later `start`, gets `error`."""
        with self._lock:
            if self._broken is None:
                self._broken = error
            numbers = tuple(self._open)
            sessions = [session for number, session in self._sessions.items() if number in self._open]
            self._open.clear()
        if numbers:  # what is left of the ring must not go on computing for nobody
            for index, stop in enumerate(self.ring):
                self._transport.post(stop.device, "close_sessions", self.ring_id, index, numbers)
        self._has_verdict.set()
        for session in sessions:
            session.tell(self._broken)

    @property
    def num_sessions(self) -> int:
        return len(self._open)

    def _close_forgotten(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            if self._sessions.get(session) is None:
                self.close_session(session)

    def _send_prompt(self, session: Session, prompt_ids: Sequence[int]) -> None:
        spec, first = session.spec, self.ring[0]
        ids = torch.tensor(prompt_ids, dtype=torch.long)
        parts = (Part(spec.session, 0, len(prompt_ids)),)

        def send(wait_s: float) -> Future[Any]:
            hop = Hop(self.ring_id, 0, parts, ids, self._transport.name, clock_ns())
            return self._transport.call(first.device, "bulk_hop", hop, timeout_s=wait_s)

        held = weakref.ref(session)
        Delivery(
            send,
            lambda sent: self._prompt_was_taken(held(), sent),
            first_s=PROMPT_S,
            is_over=partial(self._is_over, spec.session),
        ).begin()

    def _open_everywhere(self, spec: SessionSpec, prompt_ids: tuple[int, ...]) -> None:
        last = len(self.ring) - 1
        needs_prompt = spec.sampling.repetition_penalty != 1.0
        opened = []
        for index, stop in enumerate(self.ring):
            told = spec._replace(prompt_ids=prompt_ids) if needs_prompt and index == last else spec
            opened.append(self._open_at(index, stop, told))
        errors = [error for future in opened if (error := future.exception()) is not None]
        with self._lock:
            self.raise_if_broken()
        if errors:
            raise errors[0]

    def _open_at(self, index: int, stop: RingStop, spec: SessionSpec) -> Future[Any]:
        def send(wait_s: float) -> Future[Any]:
            return self._transport.post(stop.device, "open_session", self.ring_id, index, spec, timeout_s=wait_s)

        is_over = partial(self._is_over, spec.session)
        return answer_of(send, first_s=OPEN_SESSION_S, most_tries=OPEN_SESSION_TRIES, is_over=is_over)

    def _prompt_was_taken(self, session: Session | None, sent: Future[Any]) -> None:
        """A prompt that did not arrive ends its session; if its device is lost, the cluster will say so, and more."""
        error = sent.exception()
        if session is not None and isinstance(error, ShardnetError) and not isinstance(error, DeviceLost):
            self.fail_session(session.spec.session, error)

    def _wait_for_verdict(self) -> None:
        """A connection broke: whoever watches the devices is about to say which stage is lost, and how."""
        if self._has_verdict.wait(VERDICT_S):
            self.raise_if_broken()

    def _is_broken(self) -> bool:
        return self._broken is not None

    def _is_over(self, session: int) -> bool:
        return session not in self._open

    def raise_if_broken(self) -> None:
        """Raise what has ended the ring, if it has ended."""
        if self._broken is not None:
            raise copy.copy(self._broken)
