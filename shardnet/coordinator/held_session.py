"""One session of a source: what came of it so far, and who waits for more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from shardnet.coordinator.notebook import SessionPage, is_whole
from shardnet.errors import ClusterError, ShardnetError
from shardnet.session.conversation import Conversation
from shardnet.transport.messages import SampledToken
from shardnet.transport.outcomes import settle
from shardnet.transport.source_messages import SessionRequest, SessionStatus, Told, digest


class _Waiting(NamedTuple):
    """A source that has asked for more."""

    have: int
    digest: int
    """Of the tokens before."""
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
        self.opened: Future[None] = Future()
        """Done when it is open on every stage, or could not be opened."""
        self.num_tokens = 0
        self.page: SessionPage | None = None
        """As it was written down when it was open, where it was."""
        self.number = 0
        """By which it is resumed; 0 as long as it has not broken off."""
        self._began_s = now_s
        self._lease_s = lease_s
        self._until_s = now_s + lease_s
        self._session: Conversation | None = None
        self._tokens: list[SampledToken] = []
        self._digests = [0]
        """Of none of them, of the first one, of the first two, and so on."""
        self._error: ShardnetError | None = None
        self._why_closed: ShardnetError | None = None
        self._is_over = False
        self._is_closed = request is None
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()

    # ---- what its source asks ----

    def follow(self, have: int, known: int, now_s: float, wait_s: float) -> Future[Told]:
        """The tokens from index `have` on, as soon as there is one, or what ended the session.

        Args:
            known: the digest of the tokens before. Where they are others here, for a coordinator and devices were lost
                and the answer was computed anew in half precision, the source is told so.
        """
        answer: Future[Told] = Future()
        self.renew(now_s)
        with self._lock:
            self._waiting.append(_Waiting(have, known, now_s + wait_s, answer))
        self._answer()
        return answer

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

    def begin(self, session: Conversation) -> bool:
        """It is open on every stage. False where it was closed meanwhile."""
        with self._lock:
            self._session = session
            is_wanted = not self._is_closed
        settle(self.opened, None)
        return is_wanted

    def tell(self, token: SampledToken) -> None:
        self._take([token])
        self._answer()

    def is_whole(self, answer: Sequence[SampledToken]) -> None:
        """It was ended by another coordinator; this is all of it."""
        self._take(answer)
        settle(self.opened, None)
        self.end(None)

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
            settle(each.answer, Told((), False))

    def is_forgotten(self, now_s: float) -> bool:
        """Whether its source has not been heard of for too long."""
        return now_s >= self._until_s

    def status(self, now_s: float) -> SessionStatus | None:
        """None where it is over, or not open yet."""
        if self.request is None or self._session is None or self._is_over or self._is_closed:
            return None
        age_s = now_s - self._began_s
        return SessionStatus(self.request.source, len(self.request.prompt_ids), self.num_tokens, age_s)

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
        return is_whole(self.answer)

    @property
    def answer(self) -> tuple[SampledToken, ...]:
        """What has come of it."""
        return tuple(self._tokens)

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

    def _has_news(self, waiting: _Waiting) -> bool:
        return self._is_over or waiting.have < len(self._tokens)

    def _news_for(self, waiting: _Waiting) -> Told | ShardnetError:
        news = tuple(self._tokens[waiting.have :])
        if news and self._digests[waiting.have : waiting.have + 1] != [waiting.digest]:
            return ClusterError(
                "after losses this answer was computed anew, and it goes on otherwise than it began. Ask again."
            )
        if self._error is None:
            return Told(news, self._is_over)
        return Told(news, False) if news else self._error
