"""Token ids to pieces of text, as they come: no half characters, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """What is needed of a `transformers` tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


class TextStream:
    """Turns one session's ids into pieces. Their concatenation is what decoding all ids at once gives, up to a stop.

    But for one thing: tokenizers with tokens for single bytes (Llama 2, Mistral) make a whole run of them unreadable
    for one byte that is wrong in it; what had been told of the run stays told.

    Decodes only the ids since the last piece, with the piece before as context (a tokenizer may strip a leading space).
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, keeps_special: bool = False) -> None:
        """Args: `keeps_special`, whether tokens that are no text otherwise are shown."""
        self._tokenizer = tokenizer
        self._skips_special = not keeps_special
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._context_start = 0
        self._told_end = 0
        self._held_text = ""
        self.is_stopped = False
        """True once a stop string has appeared; the text ends before it."""

    def text_of(self, token_id: int) -> str:
        """A token by itself: where it is a part of a character, that cannot be shown."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def push(self, token_id: int) -> str:
        """The text that is certain now; "" while a character is incomplete or a stop string may be beginning."""
        self._ids.append(token_id)
        context = self._decode(self._ids[self._context_start : self._told_end])
        text = self._decode(self._ids[self._context_start :])
        if text.endswith("\N{REPLACEMENT CHARACTER}") or len(text) <= len(context):
            return ""
        self._context_start, self._told_end = self._told_end, len(self._ids)
        return self._release(text[len(context) :])

    def finish(self) -> str:
        """What was held back and can be told now that nothing follows."""
        context = self._decode(self._ids[self._context_start : self._told_end])
        rest = self._decode(self._ids[self._context_start :])[len(context) :]
        self._told_end = len(self._ids)
        piece = self._release(rest)
        if not self.is_stopped:
            piece, self._held_text = piece + self._held_text, ""
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skips_special)

    def _release(self, text: str) -> str:
        """Add `text` to what is held; give what cannot be part of a stop string."""
        if self.is_stopped:
            return ""
        held = self._held_text + text
        found = [at for stop in self._stop if (at := held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held_text = ""
            return held[: min(found)]
        keep = max((_overlap(held, stop) for stop in self._stop), default=0)
        self._held_text = held[len(held) - keep :]
        return held[: len(held) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
