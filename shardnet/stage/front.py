"""What a ring's first stage makes of ids that come: rows of a session's branch, and guesses behind them.

Ids that it has guessed are there already, here and further on: from the first one that it has not, it goes on. No lock:
see `stage`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from shardnet.speculation.drafted import Drafted
from shardnet.speculation.guesser import DRAFT, Guesser
from shardnet.speculation.lineage import confirmed
from shardnet.speculation.tags import tags_of
from shardnet.stage.inbox import StepWork, Taken
from shardnet.stage.live_session import LiveSession
from shardnet.stage.live_sessions import LiveSessions
from shardnet.transport.messages import Part
from shardnet.transport.offer_messages import Offer


class Front:
    """Of one stage, wherever it is in its ring. What waits there is of sessions that are open.

    Args:
        num_ids: of the model's vocabulary.
        lock: the stage's, which its own calls hold.
    """

    def __init__(self, sessions: LiveSessions, num_ids: int, lock: AbstractContextManager[object]) -> None:
        self._sessions = sessions
        self._num_ids = num_ids
        self._lock = lock

    def work_of(self, taken: Taken) -> StepWork | None:
        """What goes into the next step of what was taken; sessions become what they are by what came."""
        self._sessions.turn(taken.lines)
        if taken.work is None or not self._sessions.is_first:
            return taken.work
        return self._composed(taken.work)

    def offer(self, offer: Offer) -> bool:
        """From any thread: guesses from elsewhere. Of ids that no token has, or of too many, nothing is taken.

        Returns:
            Whether the session that is meant begins here.
        """
        if not offer.key or not offer.is_for(self._num_ids):
            return False
        with self._lock:
            found = [each for each in self._sessions.all() if each.spec.offer_key == offer.key]
            if not found or not self._sessions.is_first:
                return False
            guesser = _guesser_of(found[0])
            guesser.know(found[0].came[guesser.num_known : found[0].certain].tolist())
            guesser.offer(offer.position, offer.before, offer.ids)
            return True

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
        first, num_bulk = 0, 0
        for index, (part, session) in enumerate(zip(work.parts, sessions, strict=True)):
            is_bulk = index >= len(work.parts) - work.num_bulk_parts
            came = work.rows[first : first + part.num_tokens].tolist()
            first += part.num_tokens
            made = _made(session, part, came, guesses=not is_bulk)
            if made is not None:
                parts.append(made[0])
                ids += made[1]
                num_bulk += is_bulk
        return StepWork(parts, torch.tensor(ids), num_bulk) if parts else None

    def _session(self, part: Part) -> LiveSession:
        session = self._sessions.get(part.session)
        assert session is not None, part
        return session


def _guesses(session: LiveSession) -> bool:
    return bool(session.spec.guess_key) and session.spec.sampling.speculate != "off"


def _made(session: LiveSession, part: Part, ids: list[int], *, guesses: bool) -> tuple[Part, list[int]] | None:
    """The part that is applied, and its ids; None where nothing is."""
    assert part.position == session.safe_length, (part, session.line)
    guessed = session.came[session.certain : session.kv.length].tolist()
    line, num_right = confirmed(session.line, guessed, ids)
    fed = ids[num_right:]
    session.turn(line)
    if not fed:
        return None
    if guessed:
        del session.came[line.certain :]
    end = line.certain + len(fed)
    session.certain = end
    most = session.spec.capacity_tokens - 1 - end
    is_ready = end > max(session.spec.sample_from, session.guess_from - 1)
    if guesses and is_ready and most > 0 and _guesses(session):
        new = _guess(session, fed, most)
        tags = tags_of(session.spec.guess_key, session.branch, end, new)
        num_tokens = len(fed) + len(new)
        return (
            Part(part.session, line.certain, num_tokens, session.branch, session.branch_from, len(new), tags),
            fed + new,
        )
    return session.part(line.certain, end), fed


def _guess(session: LiveSession, fed: list[int], most: int) -> list[int]:
    guesser = _guesser_of(session)
    guesser.know(session.came[guesser.num_known :].tolist() + fed)
    return guesser.guess(most)


def _guesser_of(session: LiveSession) -> Guesser | Drafted:
    if session.guesser is None:
        session.guesser = Drafted() if session.spec.sampling.speculate == DRAFT else Guesser()
    return session.guesser
