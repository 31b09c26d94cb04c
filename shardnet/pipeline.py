"""Sessions through the ring, as the source sees them: opened on every stage, fed to the first, told by the last.

The source sends a prompt once; from then on token ids go from the last stage to the first without it. It hears every
token for streaming, ends sessions, and hands errors to whoever waits for a token. Does not know text: see
`shardnet.text`.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from shardnet.errors import DeviceLost, ShardnetError
from shardnet.timeline.timeline import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.messages import (
    Hop,
    Part,
    RingStop,
    SampledToken,
    SamplingOptions,
    SessionSpec,
    Tokens,
)

OPEN_SESSION_S = 60.0
PROMPT_S = 600.0
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
        """The tokens in order; two steps' news may overtake each other on their way. Ends early after `cancel`."""
        try:
            for index in itertools.count():
                while index not in self._held:
                    news = self._news.get()
                    if news is None:
                        return
                    if isinstance(news, BaseException):
                        raise news
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
    """The ring of one plan. Safe to use from several threads."""

    def __init__(self, transport: Transport, plan_version: int, ring: tuple[RingStop, ...]) -> None:
        self.plan_version = plan_version
        self.ring = ring
        self._transport = transport
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._sessions: dict[int, Session] = {}
        self._closings: list[Future[Any]] = []
        self._broken: ShardnetError | None = None
        self._has_verdict = threading.Event()

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
            session=next(self._ids),
            capacity_tokens=len(prompt_ids) + max_new_tokens,
            prompt_tokens=len(prompt_ids),
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            sampling=sampling,
        )
        session = Session(self, spec)
        with self._lock:
            self._raise_if_broken()
            self._sessions[spec.session] = session
        try:
            self.settle()  # the memory that earlier sessions held must be free before this one asks for it
            self._open_everywhere(spec, tuple(prompt_ids))
        except DeviceLost:
            self._wait_for_verdict()
            raise
        except BaseException:
            self.close_session(spec.session)
            raise
        first = self.ring[0]
        part = Part(spec.session, 0, len(prompt_ids))
        ids = torch.tensor(prompt_ids, dtype=torch.long)
        hop = Hop(self.plan_version, 0, (part,), ids, self._transport.name, clock_ns())
        sent = self._transport.call(first.device, "bulk_hop", hop, timeout_s=PROMPT_S)
        sent.add_done_callback(lambda future: self._prompt_was_taken(session, future))
        return session

    def close_session(self, session: int) -> None:
        """Free a session on every stage. Unknown and closed ones are ignored."""
        with self._lock:
            if self._sessions.pop(session, None) is None or self._broken is not None:
                return
            for index, stop in enumerate(self.ring):
                closing = self._transport.post(stop.device, "close_sessions", self.plan_version, index, (session,))
                self._closings.append(closing)

    def settle(self) -> None:
        """Wait until every stage has freed the sessions that were closed."""
        with self._lock:
            closings, self._closings = self._closings, []
        for closing in closings:
            closing.exception()

    def tell(self, tokens: Tokens) -> None:
        """The endpoint `tokens`: hand what was sampled to its sessions; closed ones no longer care."""
        for token in tokens.tokens:
            session = self._sessions.get(token.session)
            if session is not None:
                session.tell(token)

    def fail(self, error: ShardnetError) -> None:
        """The ring broke: every session that waits, and every later `start`, gets `error`."""
        with self._lock:
            if self._broken is None:
                self._broken = error
            sessions = list(self._sessions.values())
            self._sessions.clear()
        self._has_verdict.set()
        for session in sessions:
            session.tell(self._broken)

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    def _open_everywhere(self, spec: SessionSpec, prompt_ids: tuple[int, ...]) -> None:
        last = len(self.ring) - 1
        needs_prompt = spec.sampling.repetition_penalty != 1.0
        opened = []
        for index, stop in enumerate(self.ring):
            told = spec._replace(prompt_ids=prompt_ids) if needs_prompt and index == last else spec
            opened.append(
                self._transport.post(
                    stop.device, "open_session", self.plan_version, index, told, timeout_s=OPEN_SESSION_S
                )
            )
        errors = [error for future in opened if (error := future.exception()) is not None]
        with self._lock:
            self._raise_if_broken()
        if errors:
            raise errors[0]

    def _prompt_was_taken(self, session: Session, sent: Future[Any]) -> None:
        """A prompt that did not arrive ends its session; if its device is lost, the cluster will say so, and more."""
        error = sent.exception()
        if error is not None and not isinstance(error, DeviceLost) and session.spec.session in self._sessions:
            session.tell(error)

    def _wait_for_verdict(self) -> None:
        """A connection broke: whoever watches the devices is about to say which stage is lost, and how."""
        if self._has_verdict.wait(VERDICT_S):
            self._raise_if_broken()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken
