"""Where sources have their sessions: opened, followed and closed for them, and ended where a source does not return.

Each session has a thread that opens it and then collects its tokens. Sources ask again what was not answered: the
ticket tells that it is the same.

A session that ends before its source has closed it has *broken off*, and can be resumed, where this process has a
notebook: its model has ended, or the cluster; its source is gone for longer than a lease; what held it is gone. Not so
where the request is at fault (scores that are no numbers, say), where its source has cancelled it, and where it was
never open: then its source knows as much.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from shardnet.cluster.left_model import LeftSession
from shardnet.coordinator.broken_off import BrokenSessions, check_mark
from shardnet.coordinator.events import Tell
from shardnet.coordinator.held_session import HeldSession
from shardnet.coordinator.loaded import Loaded
from shardnet.coordinator.notebook import BrokenPage, Notebook, SessionPage, is_whole
from shardnet.coordinator.requests import session_for
from shardnet.coordinator.session_events import began, broke_off, ended
from shardnet.errors import BadRequest, ClusterError, ShardnetError, UsageError
from shardnet.process.threads import on_thread
from shardnet.session.session import ASK_AGAIN, Session, computed_anew
from shardnet.speculation.guesser import DRAFT
from shardnet.transport.outcomes import failed
from shardnet.transport.rows_messages import Rows
from shardnet.transport.source_messages import (
    FOLLOW_S,
    LEASE_S,
    BrokenOff,
    ResumeRequest,
    SessionRequest,
    SessionStatus,
    Told,
)

GIVEN_UP = "this answer was given up, as its source was not heard of."
MOST_HELD = 4096
"""Sessions that are open, or that sources were told of a while ago. Far beyond what memory for KV caches allows."""


class SessionDesk:
    """
    Args:
        loaded: gives the model of now, or raises why there is none.
        tell: told of sessions that begin and end.
        lease_s: after so long without its source a session is closed.
        notebook: where sessions are to outlive this process. Those of the coordinator before are here from the start;
            what goes on is up to `go_on`.
    """

    def __init__(
        self, loaded: Callable[[], Loaded], tell: Tell, lease_s: float = LEASE_S, notebook: Notebook | None = None
    ) -> None:
        self._loaded = loaded
        self._tell = tell
        self._lease_s = lease_s
        self._notebook = notebook
        self._broken = None if notebook is None else BrokenSessions(notebook)
        self._held: dict[int, HeldSession] = {}
        """By ticket. Those that are over stay for a lease: their sources may not have heard all yet."""
        self._left: dict[int, SessionPage] = {}
        """By their numbers: those of an earlier coordinator that may go on."""
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        """Held while an answer gets its number: who ends it and who looks or closes must not make two of it."""
        self.num_tokens = 0
        """Of all answers so far."""
        self._is_closed = False
        self._is_decided = notebook is None or not notebook.was_left
        """Whether it is known what goes on."""
        for page in () if notebook is None else notebook.sessions():
            self._hold_left(page)

    # ---- endpoints ----

    def start_session(self, request: SessionRequest) -> Future[int]:
        """Open a session. Asked again with the same ticket, it is the same one."""
        return self._opened(request.ticket, lambda: (request, None))

    def resume_session(self, asked: ResumeRequest) -> Future[int]:
        """The same for one that broke off: it goes on behind what is known of its answer."""
        return self._opened(asked.ticket, lambda: self._claimed(asked))

    def _opened(self, ticket: int, begin: Callable[[], tuple[SessionRequest, BrokenPage | None]]) -> Future[int]:
        with self._lock:
            held = self._held.get(ticket)
            if held is None and len(self._held) >= MOST_HELD:
                return failed(ClusterError(f"this cluster holds {MOST_HELD} sessions already. Ask again later."))
            if self._is_closed:
                return failed(ClusterError("this cluster is ending."))
            if held is None:
                request, broken = begin()
                held = self._held[ticket] = HeldSession(request, time.monotonic(), self._lease_s)
                held.number = 0 if broken is None else broken.number
                self._start(held, request, broken=broken)
        held.renew(time.monotonic())
        return held.opened

    def _claimed(self, asked: ResumeRequest) -> tuple[SessionRequest, BrokenPage]:
        """
        Raises:
            BadRequest: there is no answer of that number, or it is being resumed.
        """
        if self._broken is None:
            raise BadRequest("this cluster has no state folder, and keeps no answers that broke off.")
        broken = self._broken.claim(asked.number, asked.ticket)
        request = broken.request._replace(ticket=asked.ticket, source=asked.source, model=asked.model, key=asked.key)
        if asked.has_draft:
            request = request._replace(sampling=request.sampling._replace(speculate=DRAFT))
        return request, broken

    def prompt_of(self, ticket: int) -> tuple[int, ...]:
        """Of a session that goes on for another source than had asked for it. Raises as `follow`."""
        request = self._known(ticket).request
        return () if request is None else request.prompt_ids

    def broken_off(self) -> tuple[BrokenOff, ...]:
        """The answers that may be resumed."""
        return () if self._broken is None else self._broken.listed()

    def forget_session(self, number: int) -> Future[None]:
        """Remove an answer that broke off, if it is there: it is over, or nobody wants it any more."""
        broken = self._broken
        return on_thread("shardnet-forget", lambda: None if broken is None else broken.forget(number))

    def follow(self, ticket: int, have: int, known: int, ahead: tuple[int, ...]) -> Future[Told]:
        """See `HeldSession.follow`.

        Raises:
            ClusterError: there is no such session here, or no more.
        """
        held = self._known(ticket)
        answer = held.follow(have, known, ahead, time.monotonic(), FOLLOW_S)
        self._end_parted(held)
        return answer

    def read_rows(self, ticket: int, first: int) -> Future[Rows]:
        return self._known(ticket).read_rows(first, time.monotonic(), FOLLOW_S)

    def _known(self, ticket: int) -> HeldSession:
        held = self._held.get(ticket)
        if held is None:
            raise ClusterError(self._why_unknown(ticket))
        return held

    def _end_parted(self, held: HeldSession) -> None:
        """Where its source has another answer than this one, it breaks off."""
        if held.take_parting():
            on_thread("shardnet-parted", partial(self._part, held))

    def _part(self, held: HeldSession) -> None:
        error = self._broke_off(held, computed_anew())
        if held.is_finished:
            self._let_go(held)
            held.end(error)
        else:
            held.close(error)

    def _why_unknown(self, ticket: int) -> str:
        """Why there is no session of that ticket, and what its source can do."""
        broken = self._broken
        number = 0 if broken is None else broken.asked_by(ticket)
        if broken is None or not number:
            return "the coordinator does not know this answer any more. Ask anew."
        return f"{GIVEN_UP} Let the answer go on then: {broken.command(number)}"

    def close_session(self, ticket: int) -> None:
        """Close a session. One whose `start_session` comes later is not opened: its ticket stays known for a lease."""
        with self._lock:
            held = self._held.setdefault(ticket, HeldSession(None, time.monotonic(), self._lease_s))
        held.close()
        if held.request is None:
            held.end(BadRequest("this session was closed. Start another one."))

    # ---- what an earlier coordinator has left ----

    def left(self) -> list[LeftSession]:
        """The sessions that may go on."""
        return [
            LeftSession(page.spec, page.request.prompt_ids, partial(self._known_of, page))
            for page in self._left.values()
        ]

    def _known_of(self, page: SessionPage) -> tuple[int, ...]:
        """What it was begun with, or what its source has told meanwhile."""
        begun = tuple(token.token_id for token in page.answer)
        held = self._held.get(page.request.ticket)
        return begun if held is None else held.known_behind(begun)

    def go_on(self, resumed: Mapping[int, Session]) -> None:
        """These do, and the others that were left cannot."""
        left, self._left = self._left, {}
        self._is_decided = True
        for number, page in left.items():
            held, session = self._held.get(page.request.ticket), resumed.get(number)
            if session is not None and held is not None and not self._is_closed:
                self._start(held, page.request, session)
                continue
            if session is not None:  # its source was waited for in vain, or the cluster ends just now
                session.cancel()
            if held is not None:
                held.is_left(page.spec, self._known_of(page))
                self._end(held, None if held.is_cancelled else ClusterError("what held this answer is gone."))

    def _hold_left(self, page: SessionPage) -> None:
        ticket = page.request.ticket
        held = self._held[ticket] = HeldSession(page.request, time.monotonic(), self._lease_s)
        held.page = page
        held.number = 0 if self._broken is None else self._broken.number_of(page)
        if self._broken is not None and held.number:
            with suppress(BadRequest):  # another page is of the same answer: its coordinator was killed in between
                self._broken.claim(held.number, ticket)
        if is_whole(page.answer):
            held.is_whole(page.answer)
        else:
            self._left[page.spec.session] = page

    # ---- what the coordinator asks ----

    def sessions(self) -> tuple[SessionStatus, ...]:
        """Those that are under way."""
        with self._lock:
            held = list(self._held.values())
        found = [each.status(time.monotonic()) for each in held]
        return tuple(status for status in found if status is not None)

    def close(self) -> None:
        """Close all sessions, and open none any more. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            held = dict(self._held)
        left = {page.request.ticket for page in self._left.values()}
        start = "shardnet up --model MODEL" if self._notebook is None else self._notebook.how_to_start
        for ticket, each in held.items():
            why = ClusterError(f"the cluster was ended. Start it again: {start}")
            if ticket in left:  # nothing goes on that could end
                each.close(why)
                each.end(why)
            elif each.is_closed or (each.is_finished and not self._is_decided):
                each.close(why)
            else:  # also one that is finished: its source may not have heard all of it
                each.close(self._broke_off(each, why))

    def look(self, now_s: float) -> None:
        """Answer those who have waited long, and end what nobody follows. To be called every now and then."""
        if self._broken is not None:
            self._broken.drop_old()
        with self._lock:
            there = list(self._held.items())
        for ticket, held in there:
            held.answer_late(now_s)
            if held.is_forgotten(now_s):
                was_open = held.page is not None and not held.is_closed
                held.close(self._broke_off(held, ClusterError(GIVEN_UP)) if was_open else None)
                with self._lock:
                    del self._held[ticket]
                self._let_go(held)
            elif held.is_finished and held.is_closed:
                self._let_go(held)

    # ---- on threads of their own ----

    def _start(
        self,
        held: HeldSession,
        request: SessionRequest,
        found: Session | None = None,
        broken: BrokenPage | None = None,
    ) -> None:
        threading.Thread(
            target=self._run, args=(held, request, found, broken), name="shardnet-held", daemon=True
        ).start()

    def _run(
        self, held: HeldSession, request: SessionRequest, found: Session | None, broken: BrokenPage | None
    ) -> None:
        """Open a session, unless it was found open, and collect what comes of it."""
        error: ShardnetError | None = None
        try:
            session = self._open(held, request, broken) if found is None else found
            if session is not None:
                try:
                    self._collect(held, session)
                finally:
                    if not request.is_step:
                        self._tell(ended(request, held.num_tokens))
        except ShardnetError as cause:
            error = cause
        except Exception as cause:  # whatever it is, its source must not wait for ever
            error = ClusterError(f"the coordinator failed ({type(cause).__name__}: {cause}).")
        self._end(held, error)

    def _open(self, held: HeldSession, request: SessionRequest, broken: BrokenPage | None) -> Session | None:
        """The session, open on every stage; None for an answer of which all is known.

        Raises:
            ShardnetError: it cannot be opened, or is for a model that is not here any more.
        """
        loaded = self._loaded()
        if loaded.number != request.model:
            raise ClusterError("this cluster holds another model by now. Connect to it again.")
        answer = () if broken is None else broken.answer
        if broken is not None:
            check_mark(broken, loaded.mark)
        if is_whole(answer):
            held.is_whole(answer)
            return None
        session = session_for(request, loaded.model, [token.token_id for token in answer])
        if not request.is_given:
            held.page = SessionPage(request, session.spec, loaded.mark, held.number, answer)
            self._keep(held.page)  # before its source hears that it is open
        if not request.is_step:
            self._tell(began(request, broken))
        return session

    def _collect(self, held: HeldSession, session: Session) -> None:
        if not held.begin(session):
            session.cancel()
            return
        answer = []
        for token in session:
            answer.append(token)
            page = held.page
            if page is not None:  # a text that is given is no answer
                with self._lock:
                    self.num_tokens += 1
            if token.finish_reason and page is not None:
                # After this one the session is closed, and no stage knows it any more.
                self._keep(page._replace(number=held.number, answer=tuple(answer)))
            held.tell(token)
            self._end_parted(held)

    def _end(self, held: HeldSession, error: ShardnetError | None) -> None:
        """Nothing comes any more of a session."""
        if held.is_finished:
            held.end(error)
            return
        if error is not None and not self._is_at_fault(held, error):
            error = self._broke_off(held, error)
        elif held.number and held.page is not None and not self._is_closed:  # who resumed it may want it later
            self._keep_broken_off(held)
        self._let_go(held)  # before its source hears of it, and resumes it
        held.end(error)

    def _is_at_fault(self, held: HeldSession, error: ShardnetError) -> bool:
        """Whether the request is; not where the model has ended, which its source may be told of as a mistake."""
        if not isinstance(error, UsageError):
            return False
        try:
            return held.request is not None and self._loaded().number == held.request.model
        except ShardnetError:
            return False

    def _broke_off(self, held: HeldSession, error: ShardnetError) -> ShardnetError:
        """Keep what is known of a session that was open. The error, with what resumes it."""
        page, broken = held.page, self._broken
        if broken is None or not self._keep_broken_off(held):
            return error
        told = copy.copy(error)
        why = str(error).removesuffix(ASK_AGAIN).rstrip(".")
        told.args = (f"{why}. Let the answer go on then: {broken.command(held.number)}",)
        if page is not None:
            self._tell(broke_off(page.request, held.num_tokens, str(told)))
        return told

    def _keep_broken_off(self, held: HeldSession) -> bool:
        """Keep what is known of a session that was open. Whether it can be resumed: not where it was forgotten."""
        page, broken = held.page, self._broken
        if broken is None:
            return False
        if page is not None:
            with self._keeping:
                held.number = broken.keep(held.number, page, held.known)
        return held.number in broken

    def _let_go(self, held: HeldSession) -> None:
        """Nobody asks for it any more, or it ended before its time."""
        if held.request is None:
            return
        ticket = held.request.ticket
        if held.page is not None:
            held.page = None
            if self._notebook is not None:
                self._notebook.forget_session(ticket)
        if held.number and self._broken is not None:  # now that no page is left of whoever has resumed it
            self._broken.release(held.number, ticket)

    def _keep(self, page: SessionPage) -> None:
        if self._notebook is not None:
            self._notebook.keep_session(page)
