"""Thoughts before an answer, between tags: `<think>...</think>`."""

from __future__ import annotations

from collections.abc import Iterator

from shardnet.serve.formats.parts import Parser, Part, Thought, held_back

OPEN, CLOSE = "<think>", "</think>"


class Thinking:
    """See `Parser`. Only what the answer begins with is a thought.

    Args:
        behind: parses what comes behind the thought.
        has_begun: the prompt ends with the tag.
    """

    def __init__(self, behind: Parser, *, has_begun: bool) -> None:
        self._behind = behind
        self._is_thinking = has_begun
        self._is_over = False
        self._has_thought = False
        self._has_more = False
        """Something came behind it."""
        self._rest = ""

    def feed(self, text: str) -> Iterator[Part]:
        if self._is_over:
            yield from self._fed(text)
            return
        self._rest += text
        if not self._is_thinking:
            begun = self._rest.lstrip()
            if begun.startswith(OPEN):
                self._is_thinking, self._rest = True, begun.removeprefix(OPEN)
            elif not OPEN.startswith(begun):
                yield from self._go_on("", self._rest)
                return
        if self._is_thinking:
            thought, found, behind = self._rest.partition(CLOSE)
            if found:
                yield from self._go_on(thought, behind)
                return
            certain = len(self._rest) - held_back(self._rest, [CLOSE])
            thought, self._rest = self._rest[:certain], self._rest[certain:]
            yield from self._thought(thought)

    def finish(self) -> Iterator[Part]:
        rest, self._rest = self._rest, ""
        if self._is_thinking and not self._is_over:
            yield from self._thought(rest)
        elif rest:
            yield from self._behind.feed(rest)
        yield from self._behind.finish()

    def _go_on(self, thought: str, behind: str) -> Iterator[Part]:
        self._is_over, self._rest = True, ""
        yield from self._thought(thought)
        yield from self._fed(behind)

    def _fed(self, text: str) -> Iterator[Part]:
        """What comes behind a thought, without the empty lines between."""
        if self._is_thinking and not self._has_more:
            text = text.lstrip("\n")
        self._has_more = self._has_more or bool(text)
        yield from self._behind.feed(text)

    def _thought(self, text: str) -> Iterator[Part]:
        told = text if self._has_thought else text.lstrip("\n")
        if told:
            self._has_thought = True
            yield Thought(told)
