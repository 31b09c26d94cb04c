"""A shard at work: an actor with an inbox and one compute thread. Knows no network.

Hops are put into the inbox by whatever thread brings them; the compute thread takes all the work that waits, of all
sessions, runs it as one ragged batch, and hands the result to an `Outlet`. The three calls of a step are `_schedule`,
`_run` and `_postprocess`.

Back-pressure: a stage has at most `MAX_BULK_HOPS` prompt chunks at its successor that the successor has not started on;
until one is taken it runs decode work only, and its own chunks wait, and so on back to the first stage, where they are
ids. With one being computed and one waiting, a stage never runs dry while its predecessor is as fast as itself.

Legend: T new tokens, H hidden size, V vocabulary, N sessions that sample in this step.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from shardnet.errors import BadRequest, ClusterError
from shardnet.models import Segment, SessionKV, Shard
from shardnet.stage.cache import KVCache
from shardnet.stage.command import Command, Result
from shardnet.stage.inbox import Inbox, OnTaken, Packet, StepWork
from shardnet.stage.outlet import Outlet
from shardnet.stage.pace import Pace, own_pace
from shardnet.stage.sampling import Sampler, sample_step
from shardnet.timeline.clocks import clock_ns
from shardnet.timeline.recorder import Recorder
from shardnet.transport.messages import MAX_BULK_HOPS, Hop, Part, SampledToken, SessionSpec

MAX_CLOSED_KEPT = 4096
"""Numbers of closed sessions that a stage remembers, lest an order to open one that comes late opens it again."""


@dataclass(slots=True)
class _LiveSession:
    spec: SessionSpec
    kv: SessionKV
    sampler: Sampler | None
    sample_from: int
    """As in the spec; then behind the last token that was sampled. What is replayed is not sampled again."""


@dataclass(slots=True)
class _Step:
    work: StepWork
    sessions: list[_LiveSession]
    samples: list[int] = field(default_factory=list)
    """Indices of the parts that end where a token must be sampled."""
    start_ns: int = 0
    end_ns: int = 0


class Stage:
    """One shard at work. A context manager: its compute thread ends with the block.

    Args:
        wire_dtype: of the hidden states that come and go; the shard's own where None.
    """

    def __init__(
        self,
        shard: Shard,
        kv: KVCache,
        recorder: Recorder,
        outlet: Outlet,
        *,
        chunk_tokens: int,
        num_threads: int,
        pace: Pace = own_pace,
        wire_dtype: torch.dtype | None = None,
    ) -> None:
        self.shard = shard
        self.wire_dtype = wire_dtype or shard.dtype
        self.kv = kv
        self.recorder = recorder
        self._outlet = outlet
        self._num_threads = num_threads
        self._pace = pace
        self._inbox = Inbox(chunk_tokens)
        self._sessions: dict[int, _LiveSession] = {}
        self._ready = threading.Condition()
        self._has_news = False
        self._commands: list[Command[Any]] = []
        self._num_untaken = 0
        self._emptied_ns: int | None = None
        """When, during the present wait, the last session was closed: a stage without sessions is not idle."""
        self._closed_sessions: deque[int] = deque(maxlen=MAX_CLOSED_KEPT)
        self._why_stopped: str | None = None
        """Set when nothing is taken from the inbox any more."""
        self._thread = threading.Thread(target=self._work, name="shardnet-compute", daemon=True)
        self._thread.start()

    # ---- what other threads call ----

    def open_session(self, spec: SessionSpec) -> None:
        """Reserve the session's KV memory. May be asked twice, and has no effect then.

        Raises:
            KVMemorySpent: it does not fit beside those of the other sessions.
            BadRequest: the session was closed already: this order was overtaken.
            ClusterError: the stage has stopped.
        """
        sampler = Sampler(spec, self.shard.dtype, self.wire_dtype) if self.shard.has_head else None
        with self._ready:
            self._raise_if_stopped()
            if spec.session in self._closed_sessions:
                raise BadRequest(f"Session {spec.session} was closed before it was opened here.")
            live = self._sessions.get(spec.session)
            if live is not None and live.spec == spec:
                return
            self.kv.open(spec.session, spec.capacity_tokens)
            self._sessions[spec.session] = _LiveSession(spec, self.kv.get(spec.session), sampler, spec.sample_from)

    def close_sessions(self, sessions: Sequence[int]) -> None:
        """Free the sessions' memory; what arrives for them is dropped, and unknown ones are not opened any more."""
        with self._ready:
            self._closed_sessions.extend(sessions)
            for session in sessions:
                if self._sessions.pop(session, None) is not None:
                    self.kv.close(session)
            if not self._sessions and self._emptied_ns is None:
                self._emptied_ns = clock_ns()
            self._wake()

    def put(self, hop: Hop, received_ns: int, on_taken: OnTaken | None = None) -> None:
        """Put a hop into the inbox; `on_taken` marks one that brings prompt chunks.

        Raises:
            BadRequest: the rows are not what this shard takes, do not belong to the parts, or have no room.
            ClusterError: the stage has stopped.
        """
        rows = hop.payload
        self._check_rows(rows)
        packet = Packet(hop.parts, rows, on_taken)
        with self._ready:
            self._raise_if_stopped()
            self._check_room(hop.parts)
            is_new = self._inbox.put(packet, is_bulk=on_taken is not None)
            self._wake()
        if is_new:
            self.recorder.wire(
                hop.sent_ns,
                received_ns,
                source_device=hop.sender,
                num_bytes=rows.nbytes,
                num_sessions=len(hop.parts),
            )

    def between_steps(self, work: Callable[[], Result]) -> Future[Result]:
        """Have the compute thread do `work` before its next step; what it returns or raises is the future's.

        Fails with ClusterError where the stage has stopped.
        """
        command = Command(work)
        with self._ready:
            if self._why_stopped is None:
                self._commands.append(command)
                self._wake()
                return command.done
        command.refuse(self._stopped())
        return command.done

    def usage(self) -> tuple[int, int]:
        """Open sessions, and the bytes that their KV caches have reserved."""
        with self._ready:
            return len(self._sessions), self.kv.reserved_bytes

    @property
    def is_closed(self) -> bool:
        return self._why_stopped is not None

    def close(self) -> None:
        """Stop the compute thread after the step that runs now, and drop everything. Safe to call twice.

        Waits for that step, so it is not for handlers.
        """
        self._stop("it was closed")
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _stop(self, why: str) -> None:
        """Take no more work, free the sessions' memory, and let nobody wait for an answer."""
        with self._ready:
            if self._why_stopped is None:
                self._why_stopped = why
            taken = self._inbox.clear()
            commands, self._commands = self._commands, []
            self._wake()
        for command in commands:
            command.refuse(self._stopped())
        self.close_sessions(list(self._sessions))
        for on_taken in taken:
            on_taken()

    def _raise_if_stopped(self) -> None:
        if self._why_stopped is not None:
            raise self._stopped()

    def _stopped(self) -> ClusterError:
        return ClusterError(f"the stage takes no more work: {self._why_stopped}.")

    def _check_room(self, parts: Sequence[Part]) -> None:
        for part in parts:
            live = self._sessions.get(part.session)
            if live is not None and part.position + part.num_tokens > live.spec.capacity_tokens:
                raise BadRequest(
                    f"Session {part.session} has room for {live.spec.capacity_tokens} tokens, and a hop brings "
                    f"{part.num_tokens} at position {part.position}."
                )

    def _check_rows(self, rows: torch.Tensor) -> None:
        """An id out of range, say, would end the whole stage and not only its session."""
        config = self.shard.config
        if self.shard.has_embedding:
            fits = rows.dtype == torch.int64 and rows.dim() == 1 and len(rows) > 0
            fits = fits and int(rows.min()) >= 0 and int(rows.max()) < config.vocab_size
        else:
            fits = rows.dtype == self.wire_dtype and rows.shape[1:] == (config.hidden_size,)
        if not fits:
            raise BadRequest(f"Rows of {rows.dtype} and shape {tuple(rows.shape)} are not what this stage takes.")

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the compute thread ----

    def _work(self) -> None:
        torch.set_num_threads(self._num_threads)
        try:
            with torch.inference_mode():
                while self._do_step():
                    pass
        except Exception as error:  # whatever it is must reach the coordinator, not a log
            try:
                self._stop(f"{type(error).__name__}: {error}")
            finally:
                self._outlet.failed(error)

    def _do_step(self) -> bool:
        """Wait for work and do it; False when the stage is closed.

        A function of its own, so that a stage that waits holds nothing of its last step: not its rows, and not the KV
        caches of sessions that have been closed since.
        """
        step = self._schedule()
        if step is None:
            return False
        outputs = self._run(step)
        self._postprocess(step, outputs)
        return True

    def _schedule(self) -> _Step | None:
        """Wait for work and choose the next step; None when the stage is closed."""
        start_ns = clock_ns()
        with self._ready:
            self._emptied_ns = None if self._sessions else start_ns
        while True:
            with self._ready:
                if self._why_stopped is not None:
                    return None
                self._has_news = False
                commands, self._commands = self._commands, []
            for command in commands:
                command.run()
            with self._ready:
                taken = self._inbox.take(self._length_of, allow_bulk=self._num_untaken < MAX_BULK_HOPS)
                step = None
                if taken.work is not None:
                    step = _Step(taken.work, [self._sessions[part.session] for part in taken.work.parts])
                    end_ns = clock_ns() if self._emptied_ns is None else self._emptied_ns
                elif not taken.on_taken:
                    while not self._has_news:
                        self._ready.wait()
            for on_taken in taken.on_taken:  # they may go through the network: not under the lock
                on_taken()
            if step is not None:
                if end_ns > start_ns:
                    self.recorder.idle(start_ns, end_ns)
                return step

    def _run(self, step: _Step) -> torch.Tensor:
        """Hidden states [sum T, H]; or logits [N, V], where this shard ends with the head."""
        step.start_ns = clock_ns()
        segments = []
        for index, (part, session) in enumerate(zip(step.work.parts, step.sessions, strict=True)):
            is_sampled = part.position + part.num_tokens >= session.sample_from
            if is_sampled:
                step.samples.append(index)
            segments.append(Segment(session.kv, part.num_tokens, is_sampled))
        rows = step.work.rows
        inputs = rows if self.shard.has_embedding else rows.to(self.shard.dtype)
        outputs = self._pace(partial(self.shard.forward, inputs, segments))
        step.end_ns = clock_ns()
        return outputs

    def _postprocess(self, step: _Step, outputs: torch.Tensor) -> None:
        """Send first: the next stage waits for it. Then keep the books. A closed stage's last step goes nowhere."""
        if self.is_closed:
            return
        if self.shard.has_head:
            self._send_samples(step, outputs)
        else:
            self._send_hidden(step.work, outputs)
        num_tokens = 0
        with self._ready:
            for part in step.work.parts:
                num_tokens += part.num_tokens
                if part.session in self._sessions:
                    self.kv.advance(part.session, part.num_tokens)
        self.recorder.compute(step.start_ns, step.end_ns, num_tokens=num_tokens, num_sessions=len(step.sessions))

    def _send_hidden(self, work: StepWork, hidden: torch.Tensor) -> None:
        """Decode rows first: somebody waits for each of them. Slices are cloned: a view ships its whole storage."""
        parts, hidden = tuple(work.parts), hidden.to(self.wire_dtype)
        if not work.num_bulk_parts:
            self._outlet.hop(parts, hidden)
            return
        num_decode_parts = len(parts) - work.num_bulk_parts
        num_decode_rows = sum(part.num_tokens for part in parts[:num_decode_parts])
        if num_decode_parts:
            self._outlet.hop(parts[:num_decode_parts], hidden[:num_decode_rows].clone())
            hidden = hidden[num_decode_rows:].clone()
        with self._ready:
            self._num_untaken += 1
        # A hop that waits at a frozen device must not hold the weights of a stage that was closed.
        self._outlet.bulk_hop(parts[num_decode_parts:], hidden, partial(_tell_taken, weakref.ref(self)))

    def _send_samples(self, step: _Step, logits_NV: torch.Tensor) -> None:
        """Tell the ring's first stage the ids that go on, then the source what was sampled."""
        if not step.samples:
            return
        sessions = [step.sessions[index] for index in step.samples]
        ids = sample_step([session.sampler for session in sessions if session.sampler is not None], logits_NV)
        step.end_ns = clock_ns()
        onward: list[Part] = []
        onward_ids: list[int] = []
        told: list[SampledToken] = []
        for index, session, token_id in zip(step.samples, sessions, ids, strict=True):
            part, spec = step.work.parts[index], session.spec
            if isinstance(token_id, BadRequest):
                self._outlet.session_failed(spec.session, token_id)
                continue
            end = part.position + part.num_tokens
            session.sample_from = end + 1
            token_index = end - spec.prompt_tokens
            reason = "eos" if token_id in spec.eos_ids else "length" if token_index + 1 >= spec.max_new_tokens else ""
            told.append(SampledToken(spec.session, token_index, token_id, reason))
            if not reason:
                onward.append(Part(spec.session, end, 1))
                onward_ids.append(token_id)
        if onward:
            self._outlet.hop(tuple(onward), torch.tensor(onward_ids))
        if told:
            self._outlet.tokens(tuple(told))

    def _length_of(self, session: int) -> int | None:
        live = self._sessions.get(session)
        return None if live is None else live.kv.length

    def _bulk_was_taken(self) -> None:
        with self._ready:
            self._num_untaken -= 1
            self._wake()

    def _wake(self) -> None:
        """Tell the compute thread that a look at the inbox may pay. The caller holds `_ready`."""
        self._has_news = True
        self._ready.notify()


def _tell_taken(stage: weakref.ref[Stage]) -> None:
    living = stage()
    if living is not None:
        living._bulk_was_taken()
