"""What a benchmark asks: other tokens each time, of which nothing that was computed earlier can be used again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from shardnet.errors import BadRequest

SEED = 11
"""Another run asks the same."""
LEAST_ID = 3
"""Ids below are special in many vocabularies."""


class Prompts:
    """Draws them.

    Args:
        vocabulary: of the model.
        text: ids of a text; each prompt is then its beginning behind one token that is drawn.
    """

    def __init__(self, vocabulary: int, text: Sequence[int] | None = None) -> None:
        self._vocabulary = vocabulary
        self._text = text
        self._random = Random(SEED)

    def draw(self, num_tokens: int) -> list[int]:
        """
        Raises:
            BadRequest: the text has fewer tokens.
        """
        if self._text is None:
            return [self._id() for _ in range(num_tokens)]
        if num_tokens > len(self._text) + 1:
            raise BadRequest(
                f"a prompt is to have {num_tokens} tokens, but the text of --text has {len(self._text)}. Give a longer "
                "one, or ask for less with --prompt and --prefill."
            )
        return [self._id(), *self._text[: num_tokens - 1]]

    def _id(self) -> int:
        return self._random.randrange(LEAST_ID, self._vocabulary)
