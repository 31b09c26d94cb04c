"""Where sources have their sessions: opened, followed and closed for them, and ended where a source does not return.

Each session has a thread that opens it and then collects its tokens. Sources ask again what was not answered: the
ticket tells that it is the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from shardnet.cluster.left_model import LeftSession
from shardnet.coordinator.events import ClusterEvent, Tell
from shardnet.coordinator.held_session import HeldSession
from shardnet.coordinator.loaded import Loaded
from shardnet.coordinator.notebook import Notebook, SessionPage
from shardnet.errors import BadRequest, ClusterError, ShardnetError
from shardnet.foreign.quoting import counted
from shardnet.session.conversation import Conversation
from shardnet.session.options import GenerationOptions
from shardnet.session.request import check_length, sampling_of
from shardnet.session.session import Session
from shardnet.transport.outcomes import failed
from shardnet.transport.source_messages import FOLLOW_S, LEASE_S, SessionRequest, SessionStatus, Told

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
        self._held: dict[int, HeldSession] = {}
        """By ticket. Those that are over stay for a lease: their sources may not have heard all yet."""
        self._left: dict[int, SessionPage] = {}
        """By their numbers: those of an earlier coordinator that may go on."""
        self._lock = threading.Lock()
        self._is_closed = False
        for page in () if notebook is None else notebook.sessions():
            self._hold_left(page)

    # ---- endpoints ----

    def start_session(self, request: SessionRequest) -> Future[None]:
        """Open a session. Asked again with the same ticket, it is the same one."""
        with self._lock:
            held = self._held.get(request.ticket)
            if held is None and len(self._held) >= MOST_HELD:
                return failed(ClusterError(f"this cluster holds {MOST_HELD} sessions already. Ask again later."))
            if self._is_closed:
                return failed(ClusterError("this cluster is ending."))
            if held is None:
                held = self._held[request.ticket] = HeldSession(request, time.monotonic(), self._lease_s)
                self._start(held, request)
        held.renew(time.monotonic())
        return held.opened

    def follow(self, ticket: int, have: int) -> Future[Told]:
        """See `HeldSession.follow`.

        Raises:
            ClusterError: there is no such session here, or no more.
        """
        held = self._held.get(ticket)
        if held is None:
            raise ClusterError("the coordinator does not know this answer any more. Ask anew.")
        return held.follow(have, time.monotonic(), FOLLOW_S)

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
        return [LeftSession(page.spec, page.request.prompt_ids) for page in self._left.values()]

    def go_on(self, resumed: Mapping[int, Session]) -> None:
        """These do, and the others that were left cannot."""
        left, self._left = self._left, {}
        for number, page in left.items():
            held, session = self._held.get(page.request.ticket), resumed.get(number)
            if session is not None and held is not None:
                self._start(held, page.request, session)
                continue
            if session is not None:  # its source was waited for in vain
                session.cancel()
            if held is not None:
                held.end(ClusterError("what held this answer is gone. Ask anew."))
            self._forget(page.request.ticket)

    def _hold_left(self, page: SessionPage) -> None:
        held = self._held[page.request.ticket] = HeldSession(page.request, time.monotonic(), self._lease_s)
        if page.answer:
            held.is_whole(page.answer)
        else:
            self._left[page.spec.session] = page

    # ---- what the coordinator asks ----

    def sessions(self) -> tuple[SessionStatus, ...]:
        """Those that are under way."""
        now_s = time.monotonic()
        found = [held.status(now_s) for held in list(self._held.values())]
        return tuple(status for status in found if status is not None)

    def close(self) -> None:
        """Close all sessions, and open none any more. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            held = list(self._held.values())
        for each in held:
            each.close(ClusterError(_ENDED))
        left = [self._held.get(page.request.ticket) for page in self._left.values()]
        for waiting in left:  # nothing goes on that could end
            if waiting is not None:
                waiting.end(ClusterError(_ENDED))

    def look(self, now_s: float) -> None:
        """Answer those who have waited long, and end what nobody follows. To be called every now and then."""
        for ticket, held in list(self._held.items()):
            held.answer_late(now_s)
            if held.is_forgotten(now_s):
                held.close()
                with self._lock:
                    del self._held[ticket]
                self._forget(ticket)

    # ---- on threads of their own ----

    def _start(self, held: HeldSession, request: SessionRequest, found: Conversation | None = None) -> None:
        threading.Thread(target=self._run, args=(held, request, found), name="shardnet-held", daemon=True).start()

    def _run(self, held: HeldSession, request: SessionRequest, found: Conversation | None) -> None:
        """Open a session, unless it was found open, and collect what comes of it."""
        error: ShardnetError | None = None
        try:
            session = self._open(request) if found is None else found
            if found is None:
                self._keep(SessionPage(request, session.spec, ()))  # before its source hears that it is open
                self._tell(_began(request))
            try:
                self._collect(held, request, session)
            finally:
                self._tell(_ended(request, held.num_tokens))
        except ShardnetError as cause:
            error = cause
        except Exception as cause:  # whatever it is, its source must not wait for ever
            error = ClusterError(f"the coordinator failed ({type(cause).__name__}: {cause}).")
        held.end(error)
        if not held.is_finished:
            self._forget(request.ticket)

    def _open(self, request: SessionRequest) -> Conversation:
        """
        Raises:
            ShardnetError: it cannot be opened, or is for a model that is not here any more.
        """
        loaded = self._loaded()
        model = loaded.model
        if loaded.number != request.model:
            raise ClusterError("this cluster holds another model by now. Connect to it again.")
        asked = GenerationOptions(max_new_tokens=request.max_new_tokens, **request.sampling._asdict())
        ids = model.encode(request.prompt_ids)
        check_length(len(ids), asked.max_new_tokens, model.context_tokens)
        return model.deployment.sessions.start(
            ids, max_new_tokens=asked.max_new_tokens, eos_ids=model.eos_ids, sampling=sampling_of(asked)
        )

    def _collect(self, held: HeldSession, request: SessionRequest, session: Conversation) -> None:
        if not held.begin(session):
            session.cancel()
            return
        answer = []
        for token in session:
            answer.append(token)
            if token.finish_reason:  # after this one the session is closed, and no stage knows it any more
                self._keep(SessionPage(request, session.spec, tuple(answer)))
            held.tell(token)

    def _keep(self, page: SessionPage) -> None:
        if self._notebook is not None:
            self._notebook.keep_session(page)

    def _forget(self, ticket: int) -> None:
        if self._notebook is not None:
            self._notebook.forget_session(ticket)


_ENDED = "the cluster was ended. Start it again: shardnet up --model MODEL"


def _began(request: SessionRequest) -> ClusterEvent:
    num_tokens = len(request.prompt_ids)
    text = f"{request.source} asks: a prompt of {counted(num_tokens, 'tokens')}."
    return ClusterEvent("session began", text, source=request.source, num_tokens=num_tokens)


def _ended(request: SessionRequest, num_tokens: int) -> ClusterEvent:
    text = f"The answer to {request.source} has ended after {counted(num_tokens, 'tokens')}."
    return ClusterEvent("session ended", text, source=request.source, num_tokens=num_tokens)
