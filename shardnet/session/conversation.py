"""What a `Stream` reads: a session on stages that this process coordinates, or one that it only follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from shardnet.session.reading import Reading
from shardnet.transport.rows_messages import RowsAsked
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec


class Onlooker(Protocol):
    """Who is shown the tokens of one session."""

    def see(self, token_ids: Sequence[int]) -> None:
        """These come next in the answer. Must not wait."""

    def end(self) -> None:
        """No more are wanted. May be told twice. Must not wait."""


class Reader(Protocol):
    """Who is handed the tokens of one session, and how it ended."""

    def take(self, tokens: Sequence[SampledToken]) -> None:
        """These come next in the answer. Must not wait."""

    def end(self, error: BaseException | None) -> None:
        """Nothing follows: it was cancelled, or `error` ended it. May be told twice. Must not wait."""


class Handing(Protocol):
    """One session, as a reader sees it."""

    @property
    def spec(self) -> SessionSpec:
        """What its stages know of it."""

    @property
    def num_shared(self) -> int:
        """See `Conversation`."""

    def hand_to(self, reader: Reader) -> None:
        """See `Conversation`."""

    def cancel(self) -> None:
        """See `Conversation`."""


class Conversation(Protocol):
    """One session, as whoever reads its tokens sees it."""

    spec: SessionSpec
    started_s: float
    first_token_s: float | None
    last_token_s: float | None
    num_shared: int
    """So many of its tokens the stages had from another session when it began."""

    def __iter__(self) -> Iterator[SampledToken]:
        """The tokens in order. Ends early after `cancel`; raises what ended the session."""

    @property
    def known_ids(self) -> Sequence[int]:
        """The ids of the answer that are known without a gap, whoever has read them."""

    def cancel(self) -> None:
        """Stop generating and free the session's memory. Safe to call twice, from any thread."""

    def show(self, onlooker: Onlooker) -> None:
        """Show somebody each token as it is known, in order, whoever iterates: those that are known already at once.

        Holds on to whom it shows them.
        """

    def hand_to(self, reader: Reader) -> None:
        """Hand each token to a reader as it is known, in order, in place of an iteration: no thread waits for it. Those
        that are known already come at once. The reader cancels the session when it has the last one.

        Holds on to the reader.
        """


class Conversations(Protocol):
    """Where sessions are started."""

    def start(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        eos_ids: tuple[int, ...],
        sampling: SamplingOptions,
        stop: tuple[str, ...],
    ) -> Conversation:
        """Open a session; see `Sessions.start`."""

    def score(self, ids: Sequence[int], num_alternatives: int = 0) -> Conversation:
        """Open one that scores a text; see `Sessions.score`."""

    def read(self, ids: Sequence[int], rows: RowsAsked) -> Reading:
        """Open one that reads a text; see `Sessions.read`."""

    def raise_if_ended(self) -> None:
        """Raise what has ended all sessions, if that has happened."""
