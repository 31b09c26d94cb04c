"""A model on devices: its sessions, and the rings that they go through, one after the other.

Between an old ring and the one that takes over lies a moment in which both are there. What arrives is known by its
ring, and what is sent along one that is gone is not applied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, as_completed, wait
from contextlib import suppress
from typing import Any, TypeVar

from shardnet.cluster.ring import Ring
from shardnet.errors import BadRequest, ClusterError, DeviceLost, ShardnetError
from shardnet.progress import Progress
from shardnet.session.sessions import VERDICT_S, Sessions
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, StageKey, StageSizes, Tokens

UNLOAD_S = 5.0

Answer = TypeVar("Answer")


class Deployment:
    """One loaded (or loading) model, as the cluster's endpoints and its watch see it."""

    def __init__(
        self, transport: Transport, epoch: bytes, progress: Progress, on_closed: Callable[[Deployment], object]
    ) -> None:
        self.transport = transport
        self.progress = progress
        self.plan_version = 0
        """Of the present ring; stays when the model is closed."""
        self._epoch = epoch
        self._sessions: Sessions | None = None
        self._rings: tuple[Ring, ...] = ()
        """The present one last; before it, for a moment, the one that it takes over from."""
        self._ended: Future[None] = Future()
        """Fails when a device that matters is lost, or the model is closed."""
        self._lock = threading.Lock()
        self._rewiring = threading.Lock()
        self._on_closed = on_closed

    @property
    def sessions(self) -> Sessions:
        assert self._sessions is not None, "the model is not placed yet"
        return self._sessions

    @property
    def ring(self) -> Ring:
        """The present one.

        Raises:
            ShardnetError: what has ended the model.
        """
        rings = self._rings
        if not rings:
            self.sessions.raise_if_ended()
            raise BadRequest(_CLOSED)
        return rings[-1]

    def next_ring_id(self) -> RingId:
        """For a ring under a plan version that was never used."""
        return RingId(self._epoch, self.transport.draw("plan_version"))

    def holds(self, ring_id: RingId) -> bool:
        """Whether there is a use for the stages of that ring."""
        return any(ring.ring_id == ring_id for ring in self._rings)

    # ---- from nothing to a first ring ----

    def place(self, ring: Ring, numbers: Iterator[int]) -> None:
        """From now on it is known which device holds which stage; make room for each.

        Args:
            numbers: for the sessions, none of them twice in a cluster's life.

        Raises:
            ShardnetError: what has ended the load meanwhile.
        """
        with self._lock:
            if self._ended.done():
                self._ended.result()
            self._sessions = Sessions(self.transport, numbers, ring.route)
            self._rings = (ring,)
            self.plan_version = ring.ring_id.plan_version
        ring.open()

    def result_of(self, answer: Future[Answer]) -> Answer:
        """Wait for a device's answer, but no longer than until a device is lost or the load is given up."""
        either: tuple[Future[Any], ...] = (answer, self._ended)
        wait(either, return_when=FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        return answer.result()

    def wait_until_loaded(self, loads: Sequence[Future[StageSizes]]) -> None:
        """All devices load at the same time; the first error ends it."""
        for loaded in as_completed(loads):
            self.result_of(loaded)
        self.ring.loaded([loaded.result() for loaded in loads])

    def verdict(self, error: BaseException) -> BaseException:
        """What an error during the load comes from. If a connection broke, whoever watches the devices knows more."""
        if isinstance(error, DeviceLost):
            wait((self._ended,), timeout=VERDICT_S)
        cause = self._ended.exception() if self._ended.done() else None
        return cause if isinstance(error, ShardnetError) and isinstance(cause, DeviceLost) else error

    # ---- from one ring to the next ----

    def rewire(self) -> RingId:
        """Let all stages go on under a new plan version, sessions and all. Returns the new ring's id.

        Each of three steps is done by every stage before the next begins: they adopt their place in the new ring,
        switch to it between two of their steps, and answer to the old one no more. So nobody is sent what he does not
        know, and what was on its way when the old ring ended goes on in the new one.

        Raises:
            ShardnetError: a stage does not answer, or the model was closed; sessions cannot go on then.
        """
        with self._rewiring:
            ring_id = self.next_ring_id()
            with self._lock:
                old = self.ring
                new = old.successor(ring_id)
                self._rings = (old, new)
            try:
                self.sessions.suspend()
                for step in (new.adopt, new.switch):
                    for answer in step():
                        self.result_of(answer)
                self.sessions.point_at(new.route)
                for answer in new.retire_others():
                    self.result_of(answer)
            except BaseException as error:  # Ctrl-C, too: suspended sessions would wait for ever
                self.end(error if isinstance(error, ShardnetError) else ClusterError(_BROKEN_OFF))
                raise
            with self._lock:
                self._rings = self._rings and (new,)
                self.plan_version = new.ring_id.plan_version
            return new.ring_id

    # ---- what devices and the watch tell ----

    def on_tokens(self, tokens: Tokens) -> None:
        self.sessions.tell(tokens)

    def on_session_failed(self, session: int, text: str) -> None:
        self.sessions.fail_session(session, BadRequest(text))

    def on_stage_failed(self, stage: int, device: str, text: str) -> None:
        """The device lives, so the fault is the stage's."""
        for ring in self._rings[-1:]:
            self.end(ClusterError(f"stage {stage + 1} of {len(ring.plan)} on {device} failed: {text}"))

    def on_progress(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        for ring in self._rings[-1:]:
            if stage < len(ring.plan):
                self.progress(f"loading {ring.plan[stage].device}", done_bytes, total_bytes)

    def on_profile_progress(self, device: str, done: float, total: float) -> None:
        self.progress(f"profiling {device}", done, total)

    def check_stages(self, device: str, present: Collection[StageKey], asked_s: float) -> None:
        """A device has said which stages it has. One that has dropped a stage of the present ring has broken it.

        It does so when it cannot reach this process any more, though it can still be reached: what it was to send, a
        token or a hidden state, went nowhere, and its session would wait for ever.
        """
        rings = self._rings
        if len(rings) != 1:
            return
        for index in rings[0].missing(device, present, asked_s):
            self.end(
                ClusterError(
                    f"{device} has dropped stage {index + 1} of {len(rings[0].plan)}, as its connection to this "
                    "process broke. Load the model again."
                )
            )

    def lose(self, device: str, why: str) -> None:
        """A device was lost: if it holds a stage, the ring is broken. Lets go of what lived there."""
        with self._lock:
            rings = self._rings
            held = rings[-1].held_by(device) if rings else []
            if rings and not held:
                return
            what_it_held = _what_it_held(rings[-1], held[0]) if held else _BEFORE_PLACING
            for ring in rings:
                ring.release(device)
        lost = DeviceLost(f"{device} is lost ({why}){what_it_held}", device)
        self._give_up(lost)
        self.end(lost)

    def end(self, error: ShardnetError) -> None:
        """No session can go on: each that waits, and every later one, gets `error`."""
        if self._sessions is not None:
            self._sessions.end(error)

    def close(self) -> None:
        """Unload from every living device. Safe to call twice, and while it is still being loaded.

        A device that is busy or frozen is not waited for longer than `UNLOAD_S`; it does as it was told when it can.
        """
        closed = BadRequest(_CLOSED)
        with self._lock:
            rings, self._rings = self._rings[-1:], ()
            self._give_up(closed)
        try:
            self.end(closed)
            wait([ended for ring in rings for ended in ring.unload()], timeout=UNLOAD_S)
        finally:
            for ring in rings:
                ring.release()
            self._on_closed(self)  # from now on, devices end by themselves what they were not told to end

    def _give_up(self, why: ShardnetError) -> None:
        """Nobody waits for a device any more."""
        with suppress(InvalidStateError):  # the first reason counts
            self._ended.set_exception(why)


_CLOSED = "the model was closed. Load it again."
_BROKEN_OFF = "the change to another ring was broken off. Load the model again."
_BEFORE_PLACING = " before the model was placed. Load it again on the devices left."


def _what_it_held(ring: Ring, index: int) -> str:
    stage = ring.plan[index]
    return (
        f", and with it stage {index + 1} of {len(ring.plan)} (units {stage.first_unit} to {stage.last_unit}). "
        "Load the model again on the devices left."
    )
