"""One answer as it comes from a session: pieces of text, and in the end what it came to."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from shardnet.errors import ShardnetError
from shardnet.process.forks import Birthplace
from shardnet.session.conversation import Conversation
from shardnet.session.likelihoods import Likelihoods
from shardnet.session.text import TextStream
from shardnet.transport.session_messages import SampledToken

LEAST_TOKENS_OF_A_RATE = 8
"""Shorter answers say nothing about the speed of decoding: four tokens once came "at 9701 tokens/s"."""


@dataclass(frozen=True)
class Alternative:
    """A token that the model had scores for, in one place of an answer."""

    token_id: int
    text: str
    """Of the token alone. A part of a character shows as U+FFFD."""
    logprob: float
    """The natural logarithm of how likely the model held it, before any option changed that."""


@dataclass(frozen=True)
class TokenLogprob(Alternative):
    """A token of an answer: the same of it, and of others."""

    alternatives: tuple[Alternative, ...]
    """As many of the likeliest in its place as were asked for, the likeliest first. It may be among them."""


def logprob_of(token: SampledToken, likelihood: float, text_of: Callable[[int], str]) -> TokenLogprob:
    """What is told of a token that says how likely it was. Args: `text_of`, of one token by itself."""
    alternatives = tuple(Alternative(each, text_of(each), value) for each, value in token.alternatives)
    return TokenLogprob(token.token_id, text_of(token.token_id), likelihood, alternatives)


class Piece(NamedTuple):
    """What came of an answer at once."""

    text: str
    """Empty in the last one alone, where its tokens have none that belongs to the answer."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    """One for each of these, where `logprobs` asked for them."""


@dataclass(frozen=True)
class Generation:
    """One finished answer."""

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    """'eos', 'length', 'stop' (a stop string, or one of `stop_token_ids`), or 'cancelled'."""
    tokens_per_s: float | None
    """Of decoding: tokens after the first, per second after the first. None of an answer too short to tell."""
    time_to_first_token_s: float
    cached_prompt_tokens: int = 0
    """Of the prompt's, those that devices had from another answer, and did not compute."""
    guesses_checked: int = 0
    """Tokens that were guessed and went round: see `speculate`."""
    guesses_right: int = 0
    """Tokens of the answer that were guessed, and came with the one before them."""
    logprobs: list[TokenLogprob] | None = None
    """One for each of `token_ids`, where `logprobs` asked for them."""

    @property
    def tokens_per_pass(self) -> float | None:
        """So many tokens each pass through the ring brought; 1 without guesses, None of an empty answer."""
        num_passes = len(self.token_ids) - self.guesses_right
        return len(self.token_ids) / num_passes if num_passes > 0 else None


class Stream:
    """An answer as it comes: iterate for pieces of text. `result` is there when the iteration has ended.

    It is read once, as a file is: everyone who iterates, in this thread or in another, takes the pieces that nobody has
    taken yet, and after a `break` the next loop goes on from there. An error comes to everyone who reads on. It ends
    early with `close`, with a `with` block, and when nobody holds it any more.
    """

    def __init__(
        self,
        session: Conversation,
        text: TextStream,
        on_finished: Callable[[Generation], None],
        num_known: int = 0,
        likelihoods: Likelihoods | None = None,
    ) -> None:
        """
        Args:
            num_known: tokens that were there before: rates are those of the others.
            likelihoods: the session's tokens, where they are to say how likely they were.
        """
        self._num_known = num_known
        self._likelihoods = likelihoods
        self.is_finished = False
        self._birthplace = Birthplace("this stream")
        self._session = session
        self._tokens = iter(session if likelihoods is None else likelihoods)
        self._text = text
        self._on_finished = on_finished
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._num_given = 0
        """So many tokens were in pieces that somebody has."""
        self._num_checked = self._num_right = 0
        self._finish_reason = "cancelled"
        self._is_read = False
        self._failure: ShardnetError | None = None
        self._reading = threading.Lock()
        """Held by who waits for the next piece; `close` does without it."""
        self._ending = threading.Lock()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        while (piece := self.next_piece()) is not None:
            if piece.text:
                return piece.text
        raise StopIteration

    def pieces(self) -> Iterator[Piece]:
        """The pieces with their tokens, and with how likely these were. The last one may have no text."""
        while (piece := self.next_piece()) is not None:
            yield piece

    def ids(self) -> Iterator[int]:
        """The token ids as they come, instead of the pieces, which `result` has in the end. They are read once, too."""
        while (token_id := self._next_id()) is not None:
            yield token_id

    def close(self) -> None:
        """Stop generating. Safe to call twice, and after the end."""
        if not self._birthplace.is_here:
            return
        self._session.cancel()
        if self._likelihoods is not None:
            self._likelihoods.cancel()
        with self._ending:
            if self.is_finished:
                return
            self.is_finished = True
        self._on_finished(self.result)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def result(self) -> Generation:
        """What was generated; after an early `close`, what came until then."""
        session = self._session
        first_s = session.first_token_s or session.started_s
        decode_s = (session.last_token_s or first_s) - first_s
        num_new = len(self._ids) - self._num_known
        has_rate = num_new >= LEAST_TOKENS_OF_A_RATE and decode_s > 0
        return Generation(
            text="".join(self._pieces),
            token_ids=list(self._ids),
            prompt_tokens=session.spec.prompt_tokens,
            finish_reason=self._finish_reason,
            tokens_per_s=(num_new - 1) / decode_s if has_rate else None,
            time_to_first_token_s=first_s - session.started_s,
            cached_prompt_tokens=min(session.num_shared, session.spec.prompt_tokens),
            guesses_checked=self._num_checked,
            guesses_right=self._num_right,
            logprobs=None if self._likelihoods is None else list(self._logprobs),
        )

    def next_piece(self) -> Piece | None:
        """The next of `pieces`; None at the end."""
        self._birthplace.check()
        with self._reading:
            first, text = self._num_given, ""
            while not self._is_read and not text:
                text = self._take()
            self._num_given = len(self._ids)
            if text or self._num_given > first:
                return Piece(text, tuple(self._ids[first:]), tuple(self._logprobs[first:]))
            if self._failure is not None:
                raise copy.copy(self._failure)
        return None

    def _next_id(self) -> int | None:
        self._birthplace.check()
        with self._reading:
            num_before = len(self._ids)
            while not self._is_read and len(self._ids) == num_before:
                self._take()
            if len(self._ids) > num_before:
                self._num_given = len(self._ids)
                return self._ids[-1]
            if self._failure is not None:
                raise copy.copy(self._failure)
        return None

    def _take(self) -> str:
        """The text that the next token makes certain, or, where none comes, what had been held back."""
        try:
            token = next(self._tokens, None)
        except BaseException as error:
            if isinstance(error, ShardnetError):
                self._failure = copy.copy(error)  # without the traceback, which holds us
            self._end()
            raise
        if token is None:
            piece = self._text.finish()
        else:
            self._ids.append(token.token_id)
            if token.log_likelihood is not None:
                self._logprobs.append(logprob_of(token, token.log_likelihood, self._text.text_of))
            self._num_checked += max(token.guesses, 0)
            self._num_right += token.guesses < 0
            piece = "" if token.finish_reason in ("eos", "stop") else self._text.push(token.token_id)
            self._finish_reason = token.finish_reason or self._finish_reason
        if piece:
            self._pieces.append(piece)
        if self._text.is_stopped:
            self._finish_reason = "stop"
        if token is None or self._text.is_stopped:
            self._end()
        return piece

    def _end(self) -> None:
        self._is_read = True
        self.close()
