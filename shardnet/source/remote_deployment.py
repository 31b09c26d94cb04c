"""A loaded model on devices that another process coordinates, as its `Model` here needs it."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import wait

from shardnet.errors import BadRequest, ClusterError, KVMemorySpent
from shardnet.plan import Plan
from shardnet.process.threads import Errands
from shardnet.session.request import read_spec, scored_spec, session_spec
from shardnet.source.connection import Connection
from shardnet.source.followed_session import FollowedSession
from shardnet.source.following import Following
from shardnet.source.listening import Listening
from shardnet.speculation.guesser import DRAFT
from shardnet.timeline.events import Event
from shardnet.timeline.stage_report import StageReport
from shardnet.timeline.timeline import Timeline
from shardnet.transport.offer_messages import offer_key_of
from shardnet.transport.rows_messages import RowsAsked
from shardnet.transport.session_messages import SamplingOptions, SessionSpec
from shardnet.transport.source_messages import BrokenOff, ModelInfo, ResumeRequest, SessionRequest

ASK_S = 10.0
REPORT_S = 60.0
OPEN_S = 15.0
"""Then the coordinator is asked again whether it has opened a session."""
CLOSE_S = 2.0
"""How long, at the end, the coordinator may take to hear of the sessions that end."""
ENDING_S = 5.0
"""How long it may take, where their memory is needed."""
TICKET_BITS = 62


class RemoteSessions:
    """See `Conversations`. Safe to use from several threads."""

    def __init__(self, connection: Connection, listening: Listening, model: int) -> None:
        self._connection = connection
        self._listening = listening
        self._model = model
        self._opened: weakref.WeakValueDictionary[int, Following] = weakref.WeakValueDictionary()
        """Those that somebody still holds, or whose end the coordinator has not heard of."""
        self.is_closed = False
        self._lock = threading.Lock()
        self._errands = Errands("shardnet-source")
        connection.transport.on_members(self._hear_of_members)

    def _hear_of_members(self, _joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        for following in list(self._opened.values()) if left else []:
            following.press()

    def start(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...],
        sampling: SamplingOptions,
        stop: tuple[str, ...] = (),
    ) -> FollowedSession:
        """Have the coordinator open a session.

        Raises:
            KVMemorySpent: a stage cannot hold its KV cache beside those of the other sessions.
            ClusterError: the coordinator does not answer, or holds another model by now.
        """

        def request(ticket: int, key: int) -> SessionRequest:
            source, ids = self._connection.name, tuple(prompt_ids)
            return SessionRequest(ticket, source, self._model, ids, max_new_tokens, sampling, stop, key)

        spec = session_spec(0, len(prompt_ids), max_new_tokens, eos_ids, sampling)
        return self._open_in_turn(lambda: self._open("start_session", spec, request))

    def score(self, ids: Sequence[int], num_alternatives: int = 0) -> FollowedSession:
        """The same for a text that is scored; see `Sessions.score`."""

        def request(ticket: int, _key: int) -> SessionRequest:
            source, text, asked = self._connection.name, tuple(ids), SamplingOptions(logprobs=num_alternatives)
            return SessionRequest(ticket, source, self._model, text, len(ids) - 1, asked, is_scored=True)

        spec = scored_spec(0, ids, num_alternatives)
        return self._open_in_turn(lambda: self._open("start_session", spec, request))

    def read(self, ids: Sequence[int], rows: RowsAsked) -> FollowedSession:
        """The same for a text that is read; see `Sessions.read`."""

        def request(ticket: int, _key: int) -> SessionRequest:
            source, text = self._connection.name, tuple(ids)
            return SessionRequest(ticket, source, self._model, text, 0, SamplingOptions(), rows=rows)

        return self._open_in_turn(lambda: self._open("start_session", read_spec(0, ids, rows), request))

    def resume(self, broken: BrokenOff, eos_ids: tuple[int, ...], *, has_draft: bool = False) -> FollowedSession:
        """The same for an answer that broke off. Its tokens come from the first one on.

        Args:
            has_draft: it is guessed here from now on.

        Raises:
            BadRequest: it is another model's, there is none of that number any more, or it is being resumed.
            KVMemorySpent, ClusterError: as `start`.
        """

        def request(ticket: int, key: int) -> ResumeRequest:
            return ResumeRequest(ticket, self._connection.name, self._model, broken.number, key, has_draft)

        sampling = broken.sampling._replace(speculate=DRAFT) if has_draft else broken.sampling
        spec = session_spec(0, broken.prompt_tokens, broken.max_new_tokens, eos_ids, sampling)
        return self._open_in_turn(lambda: self._open("resume_session", spec, request, broken.num_tokens))

    def prompt_of(self, session: FollowedSession) -> tuple[int, ...]:
        """The ids of the prompt of an answer that was resumed.

        Raises:
            ClusterError: the coordinator does not answer, or the session has ended.
        """
        ids: tuple[int, ...] = self._connection.ask("prompt_of", session.spec.session, timeout_s=ASK_S)
        return ids

    def _open_in_turn(self, open_one: Callable[[], FollowedSession]) -> FollowedSession:
        """The last token of an answer may be here before the coordinator knows; its memory is taken till then."""
        ending = [each.closed for each in list(self._opened.values()) if each.is_ending]
        try:
            return open_one()
        except KVMemorySpent:
            if not ending:
                raise
            wait(ending, timeout=ENDING_S)
        return open_one()

    def _open(
        self,
        endpoint: str,
        asked: SessionSpec,
        request: Callable[[int, int], SessionRequest | ResumeRequest],
        num_known: int = 0,
    ) -> FollowedSession:
        """
        Args:
            request: makes what the endpoint is asked, of a ticket and a key.
            num_known: see `FollowedSession`.
        """
        ticket = secrets.randbits(TICKET_BITS)
        spec = asked._replace(session=ticket)
        following = Following(self._connection, spec)
        key = self._listening.open(following)
        if spec.offer_key:
            spec = spec._replace(offer_key=offer_key_of(key))
        session = FollowedSession(spec, following, self._errands, num_known)
        with self._lock:
            self.raise_if_ended()
            self._opened[ticket] = following
        following.closed.add_done_callback(lambda _: self._opened.pop(ticket, None))
        try:
            session.num_shared = self._connection.ask(endpoint, request(ticket, key), timeout_s=OPEN_S)
        except BaseException:
            following.cancel()
            raise
        return session

    def raise_if_ended(self) -> None:
        """
        Raises:
            BadRequest: the model was closed here.
        """
        if self.is_closed:
            raise BadRequest("the model was closed. Ask the cluster for it again.")

    @property
    def are_open(self) -> bool:
        """Whether any is."""
        return bool(self._opened)

    def close(self) -> None:
        """End all that were started here."""
        with self._lock:
            self.is_closed = True
            sessions = list(self._opened.values())
        for session in sessions:
            session.cancel()
        wait([session.closed for session in sessions], timeout=CLOSE_S)
        for session in sessions:
            session.close()
        self._errands.end()


class RemoteDeployment:
    """See `Deployed`."""

    def __init__(self, connection: Connection, listening: Listening, info: ModelInfo) -> None:
        self._connection = connection
        self._latest = info
        self.transport = connection.transport
        self.sessions = RemoteSessions(connection, listening, info.model)

    @property
    def plan(self) -> Plan:
        return self._info().plan

    @property
    def events(self) -> tuple[Event, ...]:
        return self._info().events

    def reports(self) -> list[StageReport]:
        """Of the whole model, whoever used it; the next two likewise."""
        self.sessions.raise_if_ended()
        return list(self._connection.ask("reports", timeout_s=REPORT_S))

    def reset(self) -> None:
        self.sessions.raise_if_ended()
        self._connection.ask("reset_reports", timeout_s=REPORT_S)

    def timeline(self) -> Timeline:
        self.sessions.raise_if_ended()
        return Timeline.of(self._connection.ask("timeline", timeout_s=REPORT_S))

    def close(self) -> None:
        """End the sessions that were started here; the cluster keeps its model."""
        self.sessions.close()

    def _info(self) -> ModelInfo:
        """What the coordinator says of the model; after its end here, what it said last.

        Raises:
            ClusterError: it does not answer, or holds another model by now.
        """
        if not self.sessions.is_closed:
            info: ModelInfo = self._connection.ask("model_info", timeout_s=ASK_S)
            if info.model != self._latest.model:
                raise ClusterError("this cluster holds another model by now. Ask for it again.")
            self._latest = info
        return self._latest
