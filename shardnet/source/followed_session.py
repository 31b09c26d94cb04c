"""A conversation whose session another process holds: its tokens are fetched as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from functools import partial

from shardnet.process.threads import Errands
from shardnet.source.connection import Connection
from shardnet.transport.delivery import answer_of
from shardnet.transport.messages import SampledToken, SessionSpec
from shardnet.transport.outcomes import settle
from shardnet.transport.source_messages import FOLLOW_S, Told, digest

ANSWER_S = FOLLOW_S + 5.0
CLOSE_S = 1.0
CLOSE_TRIES = 3


class FollowedSession:
    """See `Conversation`. Follows from the first token on; the coordinator keeps what was not heard yet.

    Args:
        spec: of the session, which is called by its ticket here.
        num_known: so many tokens were there before, and say nothing of how fast it is.
    """

    def __init__(self, connection: Connection, spec: SessionSpec, errands: Errands, num_known: int = 0) -> None:
        self.spec = spec
        self._num_known = num_known
        self.started_s = time.monotonic()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.closed: Future[None] = Future()
        """Done when the coordinator has heard that nobody follows any more, or cannot be told."""
        self._connection = connection
        self._errands = errands
        self._stop: Future[None] = Future()

    def __iter__(self) -> Iterator[SampledToken]:
        end: Callable[[], None] = self.cancel
        try:
            have = known = 0
            while True:
                told: Told | None = self._connection.ask(
                    "follow", self.spec.session, have, known, timeout_s=ANSWER_S, stop=self._stop
                )
                if told is None:
                    return
                for token in told.tokens:
                    self._note_time(token)
                    yield token
                    if token.finish_reason:
                        return
                if told.is_over:
                    return
                have += len(told.tokens)
                known = digest([token.token_id for token in told.tokens], known)
        except GeneratorExit:
            end = self._cancel_later
            raise
        finally:
            end()

    def cancel(self) -> None:
        """Stop generating. Safe to call twice, from any thread; does not wait for the coordinator."""
        try:
            self._stop.set_result(None)
        except InvalidStateError:
            return
        send = partial(self._connection.tell, "close_session", self.spec.session)
        told = answer_of(lambda wait_s: send(timeout_s=wait_s), first_s=CLOSE_S, most_tries=CLOSE_TRIES)
        told.add_done_callback(lambda _: settle(self.closed, None))

    def __del__(self) -> None:
        """Nobody holds it any more. Where nobody has begun to iterate, there is no iteration that could end it."""
        if not self._stop.done():
            self._cancel_later()

    def _cancel_later(self) -> None:
        """Nobody iterates any more. This may run in the garbage collector, and so in the midst of anything."""
        self._errands.do(self.cancel)

    def _note_time(self, token: SampledToken) -> None:
        if token.index < self._num_known:
            return
        self.last_token_s = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = self.last_token_s
