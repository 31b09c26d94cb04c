"""A session of which another process keeps the books: what comes of it is asked for there, and heard straight."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from shardnet.errors import ClusterError, ShardnetError
from shardnet.process.threads import on_thread
from shardnet.session.conversation import Onlooker, Reader
from shardnet.source.connection import Connection
from shardnet.source.heard import Heard
from shardnet.transport.delivery import answer_of
from shardnet.transport.listener_messages import StraightToken
from shardnet.transport.outcomes import settle
from shardnet.transport.rows_messages import Rows
from shardnet.transport.session_messages import SampledToken, SessionSpec
from shardnet.transport.source_messages import FOLLOW_S, LEASE_S, Told

ANSWER_S = FOLLOW_S + 5.0
CLOSE_S = 1.0
CLOSE_TRIES = 3
RENEW_S = LEASE_S / 4
MOST_AHEAD = 8
"""So many tokens are told to the coordinator one by one, before it has said that it knows them. It may be stopped, and
must not find a message for each token that it has missed."""

REST_S = 0.25
"""So long the coordinator is not asked anew where a reader is handed what comes straight: it has heard the same, and a
question for each token would cost a server more than all else."""
STRAIGHT_S = 2 * REST_S
"""What was heard so lately comes straight."""
RESTLESS_S = 5.0
"""After a loss nobody rests: what only this source knows must be told at once."""


class Following:
    """Safe to use from several threads. Asks from the first wait on, on a thread that ends with the session.

    Whoever asks for more is asked again at once when a token has come straight, with that token: where the stage that
    has sampled it dies before it has told the coordinator, nobody else knows it.
    """

    def __init__(self, connection: Connection, spec: SessionSpec) -> None:
        self.closed: Future[None] = Future()
        """Done when the coordinator has heard that nobody follows any more, or cannot be told."""
        self._connection = connection
        self._ticket = spec.session
        self._heard = Heard(spec)
        self._changed = threading.Condition()
        self._news: Future[None] = Future()
        """Done when the coordinator is to be asked anew, or no more."""
        self._error: BaseException | None = None
        self._is_asking = False
        self._is_over = False
        """Nothing comes any more."""
        self._is_cancelled = False
        """Nobody wants more of it. Till then the coordinator keeps the answer: it may not have been read."""
        self._is_closing = False
        self._onlooker: Onlooker | None = None
        self._num_shown = 0
        self._reader: Reader | None = None
        self._num_handed = 0
        self._pressing = threading.Event()
        """Set when the coordinator is to be asked at once."""
        self._heard_s = self._restless_till_s = -RESTLESS_S

    def hear(self, token: StraightToken) -> None:
        """See `Ear`."""
        with self._changed:
            self._heard_s = time.monotonic()
            if self._heard.straight(token):
                self._show()
                self._hand()
                self._changed.notify_all()
                if self._heard.is_whole:
                    self._pressing.set()
                if self._heard.num_ahead <= MOST_AHEAD or self._heard.is_whole:
                    settle(self._news, None)

    def show(self, onlooker: Onlooker) -> None:
        """See `Conversation`."""
        with self._changed:
            self._onlooker = onlooker
            self._show()
            self._show_end()

    def hand_to(self, reader: Reader) -> None:
        """See `Conversation`."""
        with self._changed:
            self._reader = reader
            self._hand()
            if self._is_over or self._is_cancelled:
                reader.end(self._error)
            self._begin_to_follow()

    def _hand(self) -> None:
        """What the reader was not handed yet."""
        new = self._heard.tokens[self._num_handed :] if self._reader is not None else []
        if self._reader is not None and new:
            self._num_handed += len(new)
            self._reader.take(new)

    def _begin_to_follow(self) -> None:
        """Under `_changed`."""
        if not self._is_asking:
            self._is_asking = True
            on_thread("shardnet-follow", self._follow)

    def _show(self) -> None:
        """What was not shown yet."""
        new = self._heard.tokens[self._num_shown :] if self._onlooker is not None else []
        if self._onlooker is not None and new:
            self._num_shown += len(new)
            self._onlooker.see([token.token_id for token in new])

    def _show_end(self) -> None:
        if self._is_cancelled and self._onlooker is not None:
            self._onlooker.end()
        if self._is_cancelled and self._reader is not None:
            self._reader.end(None)

    def rows_from(self, first: int) -> Rows:
        """Of a text that is read, those from `first` on; none where none have come for a while.

        Raises:
            ShardnetError: what ended the session.
            ClusterError: it was given up.
        """
        with self._changed:
            if not self._is_over:
                self._news = Future()
            stop = self._news
        rows: Rows | None = self._connection.ask("read_rows", self._ticket, first, timeout_s=ANSWER_S, stop=stop)
        if rows is None:
            raise ClusterError("this text was given up, and is read no further.")
        return rows

    def wait_for(self, index: int) -> SampledToken | None:
        """The token of that index, when it is there; None where none comes.

        Raises:
            ShardnetError: what ended the session.
        """
        with self._changed:
            self._begin_to_follow()
            known = self._heard.tokens
            self._changed.wait_for(lambda: index < len(known) or self._is_over or self._is_cancelled)
            if self._is_cancelled:
                return None
            if index < len(known):
                return known[index]
            if self._error is not None:
                raise self._error
            return None

    @property
    def known_ids(self) -> list[int]:
        """See `Conversation`."""
        with self._changed:
            return [token.token_id for token in self._heard.tokens]

    @property
    def is_ending(self) -> bool:
        """Whether nobody wants more of it, and the coordinator may not have heard that."""
        return self._is_cancelled and not self.closed.done()

    def cancel(self) -> None:
        """Nobody wants more of it. Where all has come, the session is closed when the coordinator knows that, too.

        Else at once. Safe to call twice, from any thread; does not wait for the coordinator.
        """
        with self._changed:
            self._is_cancelled = True
            self._pressing.set()
            self._show_end()
            self._changed.notify_all()
            is_ending = self._heard.is_whole and self._is_asking and not self._is_over
        if not is_ending:
            self.close()

    def close(self) -> None:
        """The same at once in any case."""
        with self._changed:
            self._is_cancelled = self._is_over = True
            self._pressing.set()
            self._show_end()
            settle(self._news, None)
            self._changed.notify_all()
        self._close()

    def _close(self) -> None:
        with self._changed:
            was_closing, self._is_closing = self._is_closing, True
        if was_closing:
            return
        send = partial(self._connection.tell, "close_session", self._ticket)
        told = answer_of(lambda wait_s: send(timeout_s=wait_s), first_s=CLOSE_S, most_tries=CLOSE_TRIES)
        told.add_done_callback(lambda _: settle(self.closed, None))

    def _follow(self) -> None:
        """Ask until the coordinator has told all, or knows it."""
        try:
            while self._ask():
                self._rest()
        except Exception as error:  # whatever it is, nobody must wait for ever
            is_ours = isinstance(error, ShardnetError)
            self._end(error if is_ours else ClusterError(f"the answer cannot be followed: {error}."))
        else:
            self._end(None)
            with suppress(ShardnetError):
                self._stay()
        if self._is_cancelled:
            self._close()

    def press(self) -> None:
        """A member is lost. Does not wait."""
        self._restless_till_s = time.monotonic() + RESTLESS_S
        self._pressing.set()

    def _rest(self) -> None:
        """Wait a moment before the next question, where nothing is lost by that."""
        with self._changed:
            now_s = time.monotonic()
            comes_straight = self._reader is not None and now_s - self._heard_s < STRAIGHT_S
            is_ending = self._heard.is_whole or self._is_over or self._is_cancelled
            if is_ending or not comes_straight:
                return
            self._pressing.clear()
        if time.monotonic() >= self._restless_till_s:
            self._pressing.wait(REST_S)

    def _stay(self) -> None:
        """All has come, and may be read slowly: until that is done its source is heard of now and then."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_cancelled, RENEW_S)
                if self._is_cancelled:
                    return
                self._news = Future()
            self._asked()

    def _asked(self) -> tuple[int, Told | None]:
        """What the coordinator tells behind so many tokens; None where something else is to be asked."""
        with self._changed:
            have, known, ahead = self._heard.position
            news = self._news
        told = self._connection.ask("follow", self._ticket, have, known, ahead, timeout_s=ANSWER_S, stop=news)
        return have, told

    def _ask(self) -> bool:
        """Ask once, or until something else is to be asked; whether that was not the last time."""
        with self._changed:
            if self._is_over:
                return False
            self._news = Future()
        have, told = self._asked()
        if told is None:
            return True
        with self._changed:
            is_same = self._heard.told(have, told.tokens, told.num_known)
            self._show()
            self._hand()
            self._changed.notify_all()
            is_known = self._heard.is_whole and not self._heard.num_ahead
            return not is_same or not (told.is_over or is_known)

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._error, self._is_over = error, True
            if self._reader is not None:
                self._reader.end(error)
            self._changed.notify_all()
