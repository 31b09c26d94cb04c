"""A stream of an answer without a ring: a real session and its stream, whose tokens the test tells."""

from __future__ import annotations

from typing import Any, cast

from shardnet.errors import ShardnetError
from shardnet.session.session import Session
from shardnet.session.stream import Generation, Stream
from shardnet.session.text import TextStream
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec


class Letters:
    """A token is a letter."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(map(chr, token_ids))


class Answer:
    """The ring's side of one stream."""

    def __init__(self, text: str = "", *, stop: tuple[str, ...] = (), is_whole: bool = True) -> None:
        """`text` has been sampled already; `is_whole` says that its last token ends the answer."""
        self.closed: list[int] = []
        self.results: list[Generation] = []
        spec = SessionSpec(7, 64, 3, 3, 32, (), SamplingOptions())
        self.session = Session(cast(Any, self), spec, [5, 6, 7])
        self.stream = Stream(self.session, TextStream(Letters(), stop), self.results.append)
        self._num_told = 0
        self.tell(text, is_last=is_whole)

    def tell(self, text: str, *, is_last: bool = False) -> None:
        for index, letter in enumerate(text):
            reason = "length" if is_last and index + 1 == len(text) else ""
            self.session.tell(SampledToken(7, self._num_told, ord(letter), reason))
            self._num_told += 1

    def fail(self, error: ShardnetError) -> None:
        self.session.tell(error)

    def close_session(self, session: int) -> None:
        """What the session asks of its pipeline."""
        self.closed.append(session)

    close_session_later = close_session
