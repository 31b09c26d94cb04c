"""Calls as JSON without tags: an answer is calls as a whole, or text.

Llama 3 writes `{"name": ..., "parameters": {...}}`, Mistral `[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, and an
answer that has to be calls by its grammar a list of these.
"""

from __future__ import annotations

from collections.abc import Iterator

from shardnet.serve.formats.parts import Part, Text, Tools

MARKS = ("[TOOL_CALLS]", "<|python_tag|>")
"""Before calls; models that write them have tokens for them."""
_BEGINNINGS = ("{", "[", *MARKS)


class Bare:
    """See `Parser`. Holds back what begins like a call until the answer ends."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._held: str | None = ""
        """None where the answer is text."""

    def feed(self, text: str) -> Iterator[Part]:
        if self._held is None:
            if text:
                yield Text(text)
            return
        self._held += text
        begun = self._held.lstrip()
        may_be = not begun or any(begun.startswith(each) or each.startswith(begun) for each in _BEGINNINGS)
        if not may_be:
            told, self._held = self._held, None
            yield Text(told)

    def finish(self) -> Iterator[Part]:
        held = self._held
        if not held:
            return
        body = held.strip()
        for mark in MARKS:
            body = body.removeprefix(mark).strip()
        calls = self._tools.calls_of(body)
        if calls is None:
            yield Text(held)
        else:
            yield from calls[:1] if self._tools.is_one_call else calls
