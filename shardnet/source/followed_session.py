"""A conversation whose session another process holds: its tokens are fetched as they come."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from shardnet.process.threads import Errands
from shardnet.session.conversation import Onlooker, Reader
from shardnet.session.reading import PATIENCE_S
from shardnet.source.following import Following
from shardnet.transport.rows_messages import Rows
from shardnet.transport.session_messages import SampledToken, SessionSpec


class FollowedSession:
    """See `Conversation`. Follows from the first token on; the coordinator keeps what was not heard yet.

    Args:
        spec: of the session, which is called by its ticket here.
        num_known: so many tokens were there before, and say nothing of how fast it is.
    """

    def __init__(self, spec: SessionSpec, following: Following, errands: Errands, num_known: int = 0) -> None:
        self.spec = spec
        self._num_known = num_known
        self.started_s = time.monotonic()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.num_shared = 0
        """Known when it is open; see `Conversation`."""
        self._following = following
        self._errands = errands

    def __iter__(self) -> Iterator[SampledToken]:
        end: Callable[[], None] = self.cancel
        try:
            for index in itertools.count():
                token = self._following.wait_for(index)
                if token is None:
                    return
                self._note_time(token)
                yield token
                if token.finish_reason:
                    return
        except GeneratorExit:
            end = self._cancel_later
            raise
        finally:
            end()

    @property
    def known_ids(self) -> list[int]:
        """See `Conversation`."""
        return self._following.known_ids

    def rows_from(self, first: int, patience_s: float = PATIENCE_S) -> Rows:
        """See `Reading`. The coordinator says how long it waits."""
        return self._following.rows_from(first)

    def cancel(self) -> None:
        """Stop generating. Safe to call twice, from any thread; does not wait for the coordinator."""
        self._following.cancel()

    def show(self, onlooker: Onlooker) -> None:
        """See `Conversation`."""
        self._following.show(onlooker)

    def hand_to(self, reader: Reader) -> None:
        """See `Conversation`."""
        self._following.hand_to(reader)

    def __del__(self) -> None:
        """Nobody holds it any more. Where nobody has begun to iterate, there is no iteration that could end it."""
        self._cancel_later()

    def _cancel_later(self) -> None:
        """Nobody iterates any more. This may run in the garbage collector, and so in the midst of anything."""
        self._errands.do(self._following.cancel)

    def _note_time(self, token: SampledToken) -> None:
        if token.index < self._num_known:
            return
        self.last_token_s = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = self.last_token_s
