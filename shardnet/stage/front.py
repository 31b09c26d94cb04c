"""What a ring's first stage makes of ids that come: rows of a session's branch, and guesses behind them.

Ids that it has guessed are there already, here and further on: from the first one that it has not, it goes on. Where
the stage has nothing else to do, further guesses go round behind those in flight. No lock: see `stage`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import inf

import torch

from shardnet.speculation.guesser import Guesser
from shardnet.speculation.laps import Laps
from shardnet.speculation.lineage import confirmed
from shardnet.speculation.pays import Load
from shardnet.speculation.tags import tags_of
from shardnet.stage.inbox import StepWork, Taken
from shardnet.stage.live_session import LiveSession
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.step import Step
from shardnet.transport.messages import Part
from shardnet.transport.offer_messages import Offer

LEAST_WAIT_S = 1e-4
"""It is not worth a shorter wait."""


class Front:
    """Of one stage, wherever it is in its ring. What waits there is of sessions that are open.

    Args:
        num_ids: of the model's vocabulary.
        lock: the stage's, which its own calls hold.
        on_offer: called where there is something new to guess.
        clock_s: seconds of any steady clock.
    """

    def __init__(
        self,
        sessions: LiveSessions,
        num_ids: int,
        lock: AbstractContextManager[object],
        on_offer: Callable[[], None],
        clock_s: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._num_ids = num_ids
        self._lock = lock
        self._on_offer = on_offer
        self._clock_s = clock_s
        self._laps = Laps()

    def begin_ring(self) -> None:
        """Nothing is known of the ring that begins."""
        self._laps.forget()

    def work_of(self, taken: Taken) -> StepWork | None:
        """What goes into the next step of what was taken; sessions become what they are by what came."""
        self._sessions.turn(taken.lines)
        if taken.work is None or not self._sessions.is_first:
            return taken.work
        return self._composed(taken.work)

    def offer(self, offer: Offer) -> bool:
        """From any thread: guesses from elsewhere. Of ids that no token has, or of too many, nothing is taken.

        Returns:
            Whether the session that is meant begins here; not where it is only copied.
        """
        if not offer.key or not offer.is_for(self._num_ids):
            return False
        with self._lock:
            found = [each for each in self._sessions.all() if each.spec.offer_key == offer.key]
            if not found or found[0].is_held or not self._sessions.is_first:
                return False
            guesser = self._guesser_of(found[0])
            guesser.know(found[0].came[guesser.num_known : found[0].certain].tolist(), self._clock_s())
            if guesser.offer(offer.position, offer.before, offer.ids):
                self._on_offer()
            return True

    def _guesser_of(self, session: LiveSession) -> Guesser:
        if session.guesser is None:
            spec = session.spec
            session.guesser = Guesser(spec.sampling.speculate, self._laps, spec.capacity_tokens)
        return session.guesser

    def _composed(self, work: StepWork) -> StepWork | None:
        """The step that these ids make; None where all of them are applied already."""
        sessions = [self._session(part) for part in work.parts]
        if not any(map(_guesses, sessions)):
            for session, part in zip(sessions, work.parts, strict=True):
                session.certain = part.end
            work.parts = [session.part(part.position, part.end) for session, part in zip(sessions, work.parts)]
            return work
        parts: list[Part] = []
        ids: list[int] = []
        num_decode = len(work.parts) - work.num_bulk_parts
        load = Load(num_decode, num_decode)
        first, num_bulk = 0, 0
        for index, (part, session) in enumerate(zip(work.parts, sessions, strict=True)):
            came = work.rows[first : first + part.num_tokens].tolist()
            first += part.num_tokens
            fed = _taken(session, part, came)
            guesses: list[int] = []
            if index < num_decode and _guesses(session):
                guesses, gain = self._guessed(session, part, came, fed, load, is_clear=work.num_bulk_parts == 0)
                load = Load(load.num_rows + len(guesses), load.tokens + gain)
            if fed:
                parts.append(_part(session, fed, guesses))
                ids += [*fed, *guesses]
                num_bulk += index >= num_decode
        return StepWork(parts, torch.tensor(ids), num_bulk) if parts else None

    def _guessed(
        self, session: LiveSession, part: Part, came: list[int], fed: list[int], load: Load, *, is_clear: bool
    ) -> tuple[list[int], float]:
        """What goes behind the ids that came, and how many of that are expected to be right."""
        guesser = self._guesser_of(session)
        now_s = self._clock_s()
        guesser.know(session.came[guesser.num_known : part.position].tolist() + came, now_s)
        room = session.spec.capacity_tokens - 1 - part.end
        if not fed or room < 1 or not _may_guess(session, part.end):
            return [], 0.0
        num_others = self._sessions.num_decoding - 1
        return guesser.begin(room, load, num_others, now_s, is_clear=is_clear)

    def further(self) -> tuple[StepWork | None, float | None]:
        """Guesses behind those in flight, when nothing else is to be done here; of one session.

        Or after how many seconds there may be some, where nothing else comes. None: there is nothing to wait for.
        """
        if not self._sessions.is_first:
            return None, None
        now_s = self._clock_s()
        num_others = self._sessions.num_decoding - 1
        next_s = inf
        for session in sorted(filter(_can_go_on, self._sessions.all()), key=_in_flight):
            assert session.guesser is not None
            end = session.kv.length
            ids, from_s = session.guesser.further(session.spec.capacity_tokens - 1 - end, num_others, now_s)
            if ids:
                tags = tags_of(session.spec.guess_key, session.branch, end, ids)
                num_guesses = end + len(ids) - session.certain
                number, branch, branch_from = session.spec.session, session.branch, session.branch_from
                part = Part(number, end, len(ids), branch, branch_from, num_guesses, tags)
                return StepWork([part], torch.tensor(ids), 0), None
            next_s = min(next_s, from_s)
        return None, None if next_s == inf else max(next_s - now_s, LEAST_WAIT_S)

    def note_step(self, step: Step) -> None:
        """It was done."""
        if self._sessions.is_first and not step.work.num_bulk_parts:
            self._laps.note_step(len(step.work.rows), (step.end_ns - step.start_ns) / 1e9)

    def _session(self, part: Part) -> LiveSession:
        session = self._sessions.get(part.session)
        assert session is not None, part
        return session


def _guesses(session: LiveSession) -> bool:
    return bool(session.spec.guess_key) and session.spec.sampling.speculate != "off"


def _may_guess(session: LiveSession, certain: int) -> bool:
    """Behind so many tokens: all that any stage knows is known here, and something was sampled."""
    return certain > max(session.spec.sample_from, session.guess_from - 1)


def _can_go_on(session: LiveSession) -> bool:
    """Whether further guesses may go round: those in flight are all that is here. Not where the head is."""
    guesser = session.guesser
    return (
        guesser is not None
        and session.sampler is None
        and not session.is_held
        and _may_guess(session, session.certain)
        and guesser.num_known == session.certain
        and guesser.num_known + guesser.num_in_flight == session.kv.length
    )


def _in_flight(session: LiveSession) -> int:
    return 0 if session.guesser is None else session.guesser.num_in_flight


def _taken(session: LiveSession, part: Part, ids: list[int]) -> list[int]:
    """Have the session become what it is when these ids are known; those that are to be applied."""
    assert part.position == session.safe_length, (part, session.line)
    guessed = session.came[session.certain : session.kv.length].tolist()
    line, num_right = confirmed(session.line, guessed, ids)
    fed = ids[num_right:]
    session.turn(line)
    if fed:
        if guessed:
            del session.came[line.certain :]
        session.certain = line.certain + len(fed)
    return fed


def _part(session: LiveSession, fed: list[int], guesses: list[int]) -> Part:
    """What is applied."""
    position, end = session.certain - len(fed), session.certain
    tags = tags_of(session.spec.guess_key, session.branch, end, guesses)
    number, branch, branch_from = session.spec.session, session.branch, session.branch_from
    return Part(number, position, len(fed) + len(guesses), branch, branch_from, len(guesses), tags)
