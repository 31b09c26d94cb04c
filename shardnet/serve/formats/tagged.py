"""Calls between tags, as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from shardnet.serve.formats.parts import Call, Part, Text, Tools, held_back

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Tagged:
    """See `Parser`. What stands between tags and is no call of a tool that was offered is text."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._rest = ""
        self._is_inside = False
        self._blank = ""
        """Text of blanks alone, of which it is not known whether anything but calls follows."""
        self._has_text = False
        self._num_calls = 0

    def feed(self, text: str) -> Iterator[Part]:
        self._rest += text
        while True:
            tag = CLOSE if self._is_inside else OPEN
            before, found, behind = self._rest.partition(tag)
            if not found:
                break
            self._rest = behind
            yield from self._body(before, CLOSE) if self._is_inside else self._told(before)
            self._is_inside = not self._is_inside
        if not self._is_inside:
            certain = len(self._rest) - held_back(self._rest, [OPEN])
            told, self._rest = self._rest[:certain], self._rest[certain:]
            yield from self._told(told)

    def finish(self) -> Iterator[Part]:
        rest, self._rest = self._rest, ""
        if self._is_inside:
            yield from self._body(rest, "")
        else:
            yield from self._told(rest)
        if self._blank and not self._num_calls:
            yield Text(self._blank)

    def _told(self, text: str) -> Iterator[Part]:
        self._blank += text
        if self._blank.strip():
            told, self._blank = self._blank, ""
            self._has_text = True
            yield Text(told)

    def _body(self, body: str, close: str) -> Iterator[Part]:
        """What stands between the tags."""
        call = self._call_of(body)
        if call is None:
            yield from self._told(f"{OPEN}{body}{close}")
        elif not (self._num_calls and self._tools.is_one_call):
            self._num_calls += 1
            self._blank = ""
            yield call

    def _call_of(self, body: str) -> Call | None:
        try:
            return self._tools.call_of(json.loads(body))
        except (ValueError, RecursionError):
            return None
