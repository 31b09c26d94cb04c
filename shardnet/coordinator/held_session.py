"""One session of a source: what came of it so far, and who waits for more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from shardnet.coordinator.notebook import SessionPage, is_whole
from shardnet.errors import BadRequest, ClusterError, ShardnetError
from shardnet.process.threads import on_thread
from shardnet.session.session import Session, computed_anew
from shardnet.transport.listener_messages import digest
from shardnet.transport.outcomes import settle
from shardnet.transport.rows_messages import Rows
from shardnet.transport.session_messages import SampledToken, SessionSpec
from shardnet.transport.source_messages import SessionRequest, SessionStatus, Told

STEP_LEASE = 0.1
"""Of a lease: for so long those that are many (`SessionRequest.is_step`) are remembered when they are closed."""


class _Waiting(NamedTuple):
    """A source that has asked for more."""

    have: int
    digest: int
    """Of the tokens before."""
    ahead: tuple[int, ...]
    """The last of these, of which it was not told here."""
    until_s: float
    """When it is told that there is nothing yet."""
    answer: Future[Told]


class HeldSession:
    """Safe to use from several threads. Times are arguments; its lock is held for moments, and never while it answers.

    Args:
        request: of its source; None for one that was closed before it was asked for.
        lease_s: after so long without its source it is closed, or forgotten where it is over.
    """

    def __init__(self, request: SessionRequest | None, now_s: float, lease_s: float) -> None:
        self.request = request
        self.opened: Future[int] = Future()
        """Done when it is open on every stage, or could not be opened: with `Session.num_shared`."""
        self.num_tokens = 0
        self.page: SessionPage | None = None
        """As it was written down when it was open, where it was."""
        self.number = 0
        """By which it is resumed; 0 as long as it has not broken off."""
        self._began_s = now_s
        self._lease_s = lease_s
        self._until_s = now_s + lease_s
        self._session: Session | None = None
        self._tokens: list[SampledToken] = []
        self._digests = [0]
        """Of none of them, of the first one, of the first two, and so on."""
        self._ahead: tuple[int, ...] = ()
        self._has_parted = self._is_parting_taken = False
        self._error: ShardnetError | None = None
        self._why_closed: ShardnetError | None = None
        self._is_over = False
        self._is_closed = request is None
        self._rows: tuple[int, Future[Rows]] | None = None
        """From where on rows were asked for last, and what came of it."""
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()

    # ---- what its source asks ----

    def follow(self, have: int, known: int, ahead: tuple[int, ...], now_s: float, wait_s: float) -> Future[Told]:
        """The tokens from index `have` on, as soon as there is one, or what ended the session.

        Args:
            known: the digest of the tokens before. Where they are others here, as devices were lost and the answer was
                computed anew in half precision, `take_parting` says so, and the source hears it with the end.
            ahead: the ids of the last of these, which its source has heard straight. They are the session's from now
                on, if they were not before: who has sampled them may be gone. Where any of them is new, that is the
                answer, at once.

        Raises:
            BadRequest: that is impossible.
        """
        if not 0 <= len(ahead) <= have:
            raise BadRequest(f"a source that has {have} tokens cannot have {len(ahead)} that were not told.")
        if self.request is not None and have > self.request.max_new_tokens:
            raise BadRequest(f"a source that has asked for {self.request.max_new_tokens} tokens cannot have {have}.")
        answer: Future[Told] = Future()
        self.renew(now_s)
        waiting = _Waiting(have, known, ahead, now_s + wait_s, answer)
        with self._lock:
            is_same, session = self._is_same(waiting), self._session
            is_news = is_same is True and have > self._num_known
            self._has_parted = self._has_parted or is_same is False
            if is_news:
                told = tuple(token.token_id for token in self._tokens)
                self._ahead = told + self._beyond(waiting)
            else:
                self._waiting.append(waiting)
        if session is not None:
            self._tell_ahead(session)
        if is_news:
            settle(answer, Told((), False, have))
        self._answer()
        return answer

    def read_rows(self, first: int, now_s: float, wait_s: float) -> Future[Rows]:
        """Rows of a text that is read, from `first` on; none where none come for so long. Asked twice, one is waited
        for.

        Raises:
            BadRequest: its rows are not read.
            ClusterError: it is not open.
        """
        if self.request is None or self.request.rows is None:
            raise BadRequest("of this session no rows were asked for.")
        self.renew(now_s)
        with self._lock:
            session = self._session
            if session is None or self._is_closed:
                raise self._error or ClusterError("this text is not open, and is not read.")
            before = self._rows
            if before is not None and before[0] == first and not before[1].done():
                return before[1]
            rows = on_thread("shardnet-rows", partial(session.rows_from, first, wait_s))
            self._rows = first, rows
        return rows

    @property
    def ahead(self) -> tuple[int, ...]:
        """The ids of its answer, as its source has heard them straight beyond what was told here."""
        return self._ahead

    def known_behind(self, begun: tuple[int, ...]) -> tuple[int, ...]:
        """The ids of its answer, which was begun with these: all that its source has heard straight, where it has."""
        return self._ahead if self._ahead[: len(begun)] == begun else begun

    def take_parting(self) -> bool:
        """Whether its source has another answer than this one. True once."""
        with self._lock:
            is_new = self._has_parted and not self._is_parting_taken
            self._is_parting_taken = self._has_parted
            return is_new

    def renew(self, now_s: float) -> None:
        """Its source was heard of."""
        with self._lock:
            self._until_s = max(self._until_s, now_s + self._lease_s)

    def close(self, why: ShardnetError | None = None) -> None:
        """Its source needs it no more, or is told why it ends. Also where it is not open yet; safe to call twice."""
        with self._lock:
            self._is_closed = True
            self._why_closed = self._why_closed or why
            session = self._session
        if session is not None:
            session.cancel()

    # ---- what comes of it ----

    def begin(self, session: Session) -> bool:
        """It is open on every stage. False where it was closed meanwhile."""
        with self._lock:
            self._session = session
            is_wanted = not self._is_closed
        self._tell_ahead(session)
        settle(self.opened, session.num_shared)
        return is_wanted

    def tell(self, token: SampledToken) -> None:
        self._take([token])
        self._answer()

    def is_whole(self, answer: Sequence[SampledToken]) -> None:
        """It was ended by another coordinator; this is all of it."""
        self._take(answer)
        settle(self.opened, 0)
        self.end(None)

    def is_left(self, spec: SessionSpec, ids: tuple[int, ...]) -> None:
        """It does not go on, and of its answer nobody knows more than these."""
        self._take(_tokens(spec, 0, ids))

    def end(self, error: ShardnetError | None) -> None:
        """Nothing comes any more. Args: `error`, what ended it before its time."""
        with self._lock:
            if error is None and not self.is_finished:
                error = self._why_closed
            self._error, self._is_over = error, True
        if error is not None:
            settle(self.opened, error)
        self._answer()

    # ---- what time does ----

    def answer_late(self, now_s: float) -> None:
        """Tell those who have waited long that there is nothing yet."""
        with self._lock:
            late = [each for each in self._waiting if each.until_s <= now_s]
            self._waiting = [each for each in self._waiting if each.until_s > now_s]
        for each in late:
            settle(each.answer, Told((), False, self._num_known))

    def is_forgotten(self, now_s: float) -> bool:
        """Whether its source has not been heard of for too long. Of those that are many, and closed, that is soon."""
        is_many = self._is_closed and self.request is not None and self.request.is_step
        return now_s >= self._until_s - (self._lease_s * (1 - STEP_LEASE) if is_many else 0)

    def status(self, now_s: float) -> SessionStatus | None:
        """None where it is over, or not open yet."""
        if self.request is None or self._session is None or self._is_over or self._is_closed:
            return None
        age_s = now_s - self._began_s
        num_prompt = len(self.request.prompt_ids)
        cached = min(self._session.num_shared, num_prompt)
        guesses = [token.guesses for token in self._tokens]
        checked, right = sum(max(each, 0) for each in guesses), sum(each < 0 for each in guesses)
        return SessionStatus(self.request.source, num_prompt, self.num_tokens, age_s, cached, checked, right)

    def _answer(self) -> None:
        """Tell those who wait for what has come."""
        with self._lock:
            due = [each for each in self._waiting if self._has_news(each)]
            self._waiting = [each for each in self._waiting if not self._has_news(each)]
            outcomes = [self._news_for(each) for each in due]
        for each, outcome in zip(due, outcomes, strict=True):
            settle(each.answer, outcome)

    @property
    def is_finished(self) -> bool:
        """Whether its last token has come."""
        return is_whole(self._tokens)

    @property
    def answer(self) -> tuple[SampledToken, ...]:
        """What has come of it."""
        return tuple(self._tokens)

    @property
    def known(self) -> tuple[SampledToken, ...]:
        """The same, and what its source alone has heard of it."""
        with self._lock:
            told, session = tuple(self._tokens), self._session
            ids = tuple(token.token_id for token in told)
            if session is None or self._ahead[: len(ids)] != ids:
                return told
            return told + self._beyond_told(session)

    @property
    def is_closed(self) -> bool:
        """Whether its source needs it no more, or was told that it ends."""
        return self._is_closed

    @property
    def is_cancelled(self) -> bool:
        """Whether its source needs it no more."""
        return self._is_closed and self._why_closed is None

    def _take(self, tokens: Sequence[SampledToken]) -> None:
        with self._lock:
            for token in tokens:
                self._tokens.append(token)
                self._digests.append(digest([token.token_id], self._digests[-1]))
            self.num_tokens = len(self._tokens)
            parted = [each for each in self._waiting if self._is_same(each) is False]
            self._has_parted = self._has_parted or bool(parted)

    def _tell_ahead(self, session: Session) -> None:
        """What its source has heard straight is the session's."""
        with self._lock:
            tokens = self._beyond_told(session)
        session.tell_ahead(tokens)

    def _beyond_told(self, session: Session) -> tuple[SampledToken, ...]:
        """What its source has told, behind what was told here and up to the answer's last token. The lock is held."""
        return () if self.is_finished else _tokens(session.spec, len(self._tokens), self._ahead)

    @property
    def _num_known(self) -> int:
        """Tokens that were told here, or that its source has told."""
        return max(len(self._tokens), len(self._ahead))

    def _beyond(self, waiting: _Waiting) -> tuple[int, ...]:
        """The ids that a source has behind those that were told here, as far as they are known. The lock is held."""
        num_told, told_before = len(self._tokens), waiting.have - len(waiting.ahead)
        if told_before <= num_told:
            return waiting.ahead[num_told - told_before :]
        return self._ahead[num_told:told_before] + waiting.ahead

    def _is_same(self, waiting: _Waiting) -> bool | None:
        """Whether a source has this answer, as far as both know it. None where it must say more. The lock is held."""
        num_told = len(self._tokens)
        if waiting.have <= num_told:
            return self._digests[waiting.have] == waiting.digest
        if waiting.have - len(waiting.ahead) > self._num_known:
            return None
        return digest(self._beyond(waiting), self._digests[num_told]) == waiting.digest

    def _has_news(self, waiting: _Waiting) -> bool:
        """Whoever has another answer is told so when this one has broken off for it: then it has a number."""
        is_same = self._is_same(waiting)
        if is_same is False:
            return self._is_over and (self._error or self._why_closed) is not None
        return self._is_over or waiting.have < len(self._tokens) or is_same is None

    def _news_for(self, waiting: _Waiting) -> Told | ShardnetError:
        is_same, num_known = self._is_same(waiting), self._num_known
        if is_same is False:
            return self._error or self._why_closed or computed_anew()
        news = tuple(self._tokens[waiting.have :])
        if self._error is None:
            return Told(news, self._is_over and is_same is not None, num_known)
        return Told(news, False, num_known) if news else self._error


def _tokens(spec: SessionSpec, first: int, ids: Sequence[int]) -> tuple[SampledToken, ...]:
    """Those of an answer from an index on, up to its last one."""
    found: list[SampledToken] = []
    for index, token_id in enumerate(ids[first : spec.max_new_tokens], start=first):
        found.append(SampledToken(spec.session, index, token_id, spec.finish_reason(index, token_id)))
        if found[-1].finish_reason:
            break
    return tuple(found)
