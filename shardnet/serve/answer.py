"""One choice of an answer as its tokens come: text that is certain, how it ended, what was counted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shardnet.session.stream import TokenLogprob, logprob_of
from shardnet.session.text import TextStream
from shardnet.transport.session_messages import SampledToken

REASONS = {"eos": "stop", "stop": "stop", "length": "length"}
SILENT = ("eos", "stop")
"""The token that ends an answer so is no part of its text."""


class Likely(NamedTuple):
    """How likely a token of the text was."""

    token: TokenLogprob
    offset: int
    """Where it begins in the text."""


class Answer:
    """
    Args:
        index: which of the choices it is.
        text: turns its ids into text.
    """

    def __init__(self, index: int, text: TextStream) -> None:
        self.index = index
        self.num_tokens = 0
        self.finish_reason: str | None = None
        """As OpenAI's API calls it; None while it goes on."""
        self._text = text
        self._num_told = 0
        """Characters."""
        self._held: list[TokenLogprob] = []
        """Tokens whose text was not told yet."""
        self._likely: list[Likely] = []

    def take(self, tokens: Sequence[SampledToken]) -> str:
        """The text that these make certain. What comes behind the end is dropped."""
        return "".join(self._taken(token) for token in tokens)

    def likely(self) -> tuple[Likely, ...]:
        """How likely the tokens were whose text was told since this was asked last, where that came with them."""
        taken, self._likely = tuple(self._likely), []
        return taken

    def _taken(self, token: SampledToken) -> str:
        if self.finish_reason is not None:
            return ""
        self.num_tokens += 1
        is_silent = token.finish_reason in SILENT
        piece = "" if is_silent else self._text.push(token.token_id)
        if token.log_likelihood is not None and not is_silent:
            self._held.append(logprob_of(token, token.log_likelihood, self._text.text_of))
        if token.finish_reason and not self._text.is_stopped:
            piece += self._text.finish()
        if self._text.is_stopped:
            self.finish_reason = "stop"
        elif token.finish_reason:
            self.finish_reason = REASONS[token.finish_reason]
        if self._held and (piece or self.finish_reason is not None):
            self._tell(len(piece))
        self._num_told += len(piece)
        return piece

    def _tell(self, num_characters: int) -> None:
        """Tell of the tokens of which so many characters are; those behind a stop string, and in it, are dropped. Of
        what a stop string holds back the tokens come with the next text.
        """
        offset = 0
        while self._held and (offset < num_characters or self._is_whole):
            token = self._held.pop(0)
            self._likely.append(Likely(token, self._num_told + min(offset, num_characters)))
            offset += len(token.text)
        if self.finish_reason is not None:
            self._held.clear()

    @property
    def _is_whole(self) -> bool:
        """Whether all tokens belong to the text."""
        return self.finish_reason is not None and not self._text.is_stopped
