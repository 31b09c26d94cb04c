"""A shard at work: an actor with an inbox and one compute thread. Knows no network.

Hops are put into the inbox by whatever thread brings them; the compute thread takes all the work that waits, of all
sessions, runs it as one ragged batch, and hands the result to an `Outlet`. The three calls of a step are `_schedule`,
`_run` and `_postprocess`.

Back-pressure: as soon as a stage has as many tokens of prompts at its successor that this has not started on as
`MAX_BULK_CHUNKS` full chunks have, it runs decode work only until some are taken, and its own chunks wait, and so on
back to the first stage, where they are ids. What is sent last may go beyond that, by less than a chunk. With one being
computed and one waiting, a stage never runs dry while its predecessor is as fast as itself.

Legend: T new tokens, H hidden size, V vocabulary, S tokens behind which one may be sampled in this step.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import torch

from shardnet.codecs.rows import Codec
from shardnet.errors import ClusterError
from shardnet.models import Shard
from shardnet.speculation.lineage import first_branch
from shardnet.stage.cache import KVCache
from shardnet.stage.command import Command, Commands, Result
from shardnet.stage.constraint import Matchers, read_none
from shardnet.stage.copies import Copies
from shardnet.stage.followed import FollowedSessions
from shardnet.stage.front import Front
from shardnet.stage.grouping import Groups
from shardnet.stage.idle_time import IdleTime
from shardnet.stage.inbox import Inbox, OnTaken, Packet
from shardnet.stage.inputs import check_rows, inputs_of
from shardnet.stage.kept_rows import RowReaders, not_open, row_memory_of
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.onward import Onward
from shardnet.stage.outlet import Outlet
from shardnet.stage.pace import Pace, own_pace
from shardnet.stage.sampling import sampler_of
from shardnet.stage.sent_log import SentLog
from shardnet.stage.shape import Remains, Shape
from shardnet.stage.step import Step
from shardnet.timeline.clocks import clock_ns
from shardnet.timeline.recorder import Recorder
from shardnet.transport.messages import Hop, SessionStanding, Wanted
from shardnet.transport.session_messages import SessionSpec


class Stage:
    """One shard at work. A context manager: its compute thread ends with the block.

    Args:
        sent_as: what its hidden states travel in. What comes says what it is in.
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
        sent_as: Codec,
        pace: Pace = own_pace,
        matchers: Matchers = read_none,
    ) -> None:
        self.shard = shard
        self.kv = kv
        self.recorder = recorder
        self._outlet = outlet
        self._num_threads = num_threads
        self._pace = pace
        self.matchers = matchers
        self._inbox = Inbox(chunk_tokens)
        self._groups = Groups()
        self._sessions = LiveSessions(kv, is_first=shard.has_embedding)
        self.is_in_step = self._sessions.is_in_step
        self._ready = threading.Condition()
        on_taken = partial(_wake, weakref.ref(self))
        self._front = Front(self._sessions, int(shard.config.vocab_size), self._ready, on_taken, _clock_s)
        self.offer = self._front.offer
        self._idle = IdleTime(recorder)
        self._log = SentLog(shard)
        self._onward = Onward(
            outlet, self._sessions, self._log, self._ready, chunk_tokens=chunk_tokens, on_taken=on_taken
        )
        self._shape = Shape(shard, kv, self._sessions, self._inbox, self._onward, sent_as)
        self.copies = Copies(shard, self._sessions, self._inbox.waiting, self._ready)
        """For those that follow this stage."""
        self.followed = FollowedSessions(shard, kv, self._sessions, self._ready, sent_as.name, matchers)
        """Of those that this one follows."""
        self.readers = RowReaders(shard, self._sessions, self._ready)
        self._has_news = False
        self._commands = Commands()
        self._why_stopped: str | None = None
        """Set when nothing is taken from the inbox any more."""
        self._thread = threading.Thread(target=self._work, name="shardnet-compute", daemon=True)
        self._thread.start()

    # ---- what other threads call ----

    def open_session(self, spec: SessionSpec) -> int:
        """See `LiveSessions.open`. A copy of another session's tokens is made before it returns.

        Raises:
            ClusterError: the stage has stopped.
        """
        with self._ready:
            self._raise_if_stopped()
            sampler = sampler_of(spec, self.shard, self.sent_as.name, self.matchers)
            memory = partial(row_memory_of, spec, self.shard, self.kv.budget_beside)
            num_there = self._sessions.open(spec, sampler, memory)
            self._idle.note_sessions(len(self._sessions))
            return num_there

    def close_sessions(self, sessions: Sequence[int]) -> None:
        """Free the sessions' memory; what arrives for them is dropped, and unknown ones are not opened any more."""
        with self._ready:
            self._sessions.close(sessions)
            self._idle.note_sessions(len(self._sessions))
            self._wake()
        self.readers.drop(sessions, not_open)

    def put(self, hop: Hop, received_ns: int, on_taken: OnTaken | None = None) -> None:
        """Put a hop into the inbox; `on_taken` marks one that brings prompt chunks. One for another unit is dropped.

        Raises:
            BadRequest: the rows are not what this shard takes, or do not belong to the parts.
            ClusterError: the stage has stopped.
        """
        rows = hop.payload
        with self._ready:
            self._raise_if_stopped()
            is_new = False
            is_for_this = hop.unit == self.shard.first_unit
            if is_for_this:
                check_rows(self.shard, rows)
                is_new = self._inbox.put(Packet(hop.parts, rows, on_taken), is_bulk=on_taken is not None)
                self._wake()
        if on_taken is not None and not is_for_this:
            on_taken()
        if is_new:
            num_sessions = len({part.session for part in hop.parts})
            self.recorder.wire(
                hop.sent_ns, received_ns, source_device=hop.sender, num_bytes=rows.nbytes, num_sessions=num_sessions
            )

    def between_steps(self, work: Callable[[], Result]) -> Future[Result]:
        """Have the compute thread do `work` before its next step; what it returns or raises is the future's.

        Fails with ClusterError where the stage has stopped.
        """
        return self._give(Command(work), None)

    def when_idle(self, work: Callable[[], Result], patience_s: float) -> Future[Result]:
        """The same as soon as nothing else is to be done; after `patience_s` in any case."""
        return self._give(Command(work), _clock_s() + patience_s)

    def _give(self, command: Command[Result], until_s: float | None) -> Future[Result]:
        with self._ready:
            if self._why_stopped is None:
                self._commands.add(command, until_s)
                self._wake()
                return command.done
        command.refuse(self._stopped())
        return command.done

    def standings(self) -> tuple[SessionStanding, ...]:
        """What is known here of each open session. To be asked `between_steps`."""
        with self._ready:
            waiting = self._inbox.waiting() if self.shard.has_embedding else {}
            return tuple(self._log.standing(session, waiting) for session in self._sessions.all())

    def send_again(self, wanted: Sequence[Wanted]) -> None:
        """See `Onward.send_again`. To be asked `between_steps`. What is copied, and not wanted, is dropped."""
        self._onward.send_again(wanted)
        self.followed.end()
        with self._ready:
            self._sessions.drop_held()
            self._idle.note_sessions(len(self._sessions))

    def begin_ring(self, plan_version: int, num_groups: int) -> None:
        """Go by no guess of an earlier ring, and let so many groups go round. To be asked `between_steps`."""
        with self._ready:
            self._sessions.begin_ring(first_branch(plan_version))
            self._front.begin_ring()
            self._groups.become(num_groups)

    def send_as(self, codec: Codec) -> None:
        """See `Shape.send_as`. To be asked `between_steps`, as all that follow."""
        with self._ready:
            if self._shape.send_as(codec):
                self.followed.forget_sent()

    def trim(self, first_unit: int, last_unit: int, sent_as: Codec) -> None:
        """See `Shape.trim`."""
        with self._ready:
            taken = self._shape.trim(first_unit, last_unit, sent_as)
            self.followed.trim()
            self._idle.note_sessions(len(self._sessions))
        for on_taken in taken:
            on_taken()

    def end_for_another(self) -> Remains:
        """End, and leave what it has to the stage of which it becomes a part."""
        with self._ready:
            self._why_stopped = self._why_stopped or "it is part of another stage now"
            sessions = self._sessions.give()
        self._stop(self._why_stopped)
        return Remains(self.shard, self.kv, sessions, self.recorder, self.sent_as)

    def join(self, other: Remains) -> None:
        """See `Shape.join`."""
        with self._ready:
            self._shape.join(other)
            self._idle.note_sessions(len(self._sessions))
        self.recorder.absorb(other.recorder)

    @property
    def sent_as(self) -> Codec:
        """What its hidden states travel in."""
        return self._shape.sent_as

    def usage(self) -> tuple[int, int]:
        """Open sessions, and the bytes that their KV caches have reserved."""
        with self._ready:
            return len(self._sessions), self.kv.reserved_bytes

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
            commands = self._commands.clear()
            self._wake()
        for command in commands:
            command.refuse(self._stopped())
        with self._ready:
            self._sessions.close_all()
        self.readers.end(self._stopped())
        for on_taken in taken:
            on_taken()

    def _raise_if_stopped(self) -> None:
        if self._why_stopped is not None:
            raise self._stopped()

    def _stopped(self) -> ClusterError:
        return ClusterError(f"the stage takes no more work: {self._why_stopped}.")

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
        try:
            outputs = self._run(step)
            self._postprocess(step, outputs)
        finally:
            with self._ready:
                self._sessions.end_step()
        return True

    def _schedule(self) -> Step | None:
        """Wait for work and choose the next step; None when the stage is closed."""
        while self._run_commands():
            self._onward.catch_up()
            step, wait_s = self._take_work()
            if step is not None:
                return step
            with self._ready:
                self._commands.note_idle()
                self._ready.wait_for(lambda: self._has_news or self._commands.is_any_due, wait_s)
        return None

    def _run_commands(self) -> bool:
        """Do what was asked for between two steps; False when the stage is closed. A function of its own likewise."""
        with self._ready:
            if self._why_stopped is not None:
                return False
            self._has_news = False
            commands = self._commands.due(_clock_s())
            self._idle.note_waiting(not commands)
        for command in commands:
            if self._why_stopped is None:
                command.run()
            else:  # one before it has ended the stage
                command.refuse(self._stopped())
        return True

    def _take_work(self) -> tuple[Step | None, float | None]:
        """The next step. None where nothing that waits can run now, or is to, for so many seconds at most."""
        with self._ready:
            now_s, sessions = _clock_s(), self._sessions
            group = self._groups.choose(now_s, self._inbox.num_decode_parts, sessions.num_decoding)
            taken = self._inbox.take(sessions.standing, allow_bulk=self._onward.has_room, most_decode=group.most)
            work, wait_s = self._front.work_of(taken), group.wait_s
            self._has_news |= work is None and bool(taken.lines)  # what waits may be applied now
            if work is not None:
                self._groups.taken(now_s, [part.session for part in work.decode_parts])
            elif self._is_free:
                work, wait_s = self._front.further()
            step = None if work is None else Step(work, sessions.begin_step(work.parts))
            self._idle.note_waiting(step is None)
        for on_taken in taken.on_taken:  # they may go through the network: not under the lock
            on_taken()
        for refusal in taken.refused:
            self._outlet.session_failed(*refusal)
        return step, wait_s

    @property
    def _is_free(self) -> bool:
        """Whether nothing waits for this stage, or for what it sends. The caller holds `_ready`."""
        is_asked = self._has_news or len(self._commands) > 0
        return not is_asked and self._inbox.is_empty and self._onward.has_room and not self._onward.is_behind

    def _run(self, step: Step) -> torch.Tensor:
        """Hidden states [sum T, H]; or logits [S, V], where this shard ends with the head."""
        step.start_ns = clock_ns()
        segments = step.segments(has_head=self.shard.has_head)
        inputs = inputs_of(self.shard, step.work.rows)
        outputs = self._pace(partial(self.shard.forward, inputs, segments))
        step.end_ns = clock_ns()
        return outputs

    def _postprocess(self, step: Step, outputs: torch.Tensor) -> None:
        """Send first: the next stage waits for it. Then keep the books. A closed stage's last step goes nowhere."""
        if self._why_stopped is not None:
            return
        hidden = None
        if self.shard.has_head:
            self._onward.send_samples(step, outputs)
            self._onward.tell_scores(step)
        else:
            hidden = self.sent_as.encode(outputs)
            self._onward.send_hidden(step, hidden)
        self._log.keep(step.work.parts, step.sessions, step.work.rows, hidden)
        with self._ready:
            self._sessions.advance(step.work.parts, step.sessions, step.wrong)
        self._front.note_step(step)
        self.readers.answer()
        step.note_in(self.recorder)

    def _wake(self) -> None:
        """Tell the compute thread that a look at the inbox may pay. The caller holds `_ready`."""
        self._has_news = True
        self._ready.notify()


def _clock_s() -> float:
    return clock_ns() / 1e9


def _wake(stage: weakref.ref[Stage]) -> None:
    """A hop that waits at a frozen device must not hold the weights of a stage that was closed."""
    living = stage()
    if living is not None:
        with living._ready:
            living._wake()
