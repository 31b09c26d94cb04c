"""One choice of an answer as its tokens come: text that is certain, how it ended, what was counted. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.session.text import TextStream
from shardnet.transport.session_messages import SampledToken

REASONS = {"eos": "stop", "stop": "stop", "length": "length"}
SILENT = ("eos", "stop")
"""The token that ends an answer so is no part of its text."""


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

    def take(self, tokens: Sequence[SampledToken]) -> str:
        """The text that these make certain. What comes behind the end is dropped."""
        return "".join(self._taken(token) for token in tokens)

    def _taken(self, token: SampledToken) -> str:
        if self.finish_reason is not None:
            return ""
        self.num_tokens += 1
        piece = "" if token.finish_reason in SILENT else self._text.push(token.token_id)
        if token.finish_reason and not self._text.is_stopped:
            piece += self._text.finish()
        if self._text.is_stopped:
            self.finish_reason = "stop"
        elif token.finish_reason:
            self.finish_reason = REASONS[token.finish_reason]
        return piece
