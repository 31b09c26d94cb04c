"""Completions in the shapes of OpenAI's API: whole objects, and pieces of a stream that are mostly made once. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from shardnet.serve import likely
from shardnet.serve.answer import Likely
from shardnet.serve.errors import ApiError
from shardnet.serve.reply import Piece, Usage

DONE = b"data: [DONE]\n\n"
encode = json.JSONEncoder(separators=(",", ":")).encode
"""ASCII alone: many clients take U+2028 and its kin for the end of a line, and half a character has no bytes."""


def event(what: Any) -> bytes:
    """One event of a stream."""
    return f"data: {encode(what)}\n\n".encode()


@dataclass(frozen=True)
class Named:
    """What all parts of one answer say."""

    id: str
    created: int
    model: str

    def head(self, prefix: str, kind: str) -> dict[str, Any]:
        """What each object of it begins with."""
        return {"id": prefix + self.id, "object": kind, "created": self.created, "model": self.model}


class CompletionShape:
    """`text_completion`."""

    def __init__(self, named: Named, *, includes_usage: bool, tells_likely: bool = False) -> None:
        self._tells_likely = tells_likely
        self._head = named.head("cmpl-", "text_completion")
        self._includes_usage = includes_usage
        self._before = f'data: {encode(self._head)[:-1]},"choices":[{{"index":'
        self._after = ',"usage":null}\n\n' if includes_usage else "}\n\n"

    def first(self, num_choices: int) -> bytes:
        """Nothing: a stream begins with text."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """What comes next."""
        reason = "null" if piece.finish_reason is None else f'"{piece.finish_reason}"'
        logprobs = encode(likely.of_completion(piece.likely)) if self._tells_likely else "null"
        text = f'"text":{encode(piece.text)},"logprobs":{logprobs},"finish_reason":{reason}}}]'
        return f"{self._before}{piece.choice},{text}{self._after}".encode()

    def last(self, usage: Usage) -> bytes:
        """What a stream ends with."""
        told = event({**self._head, "choices": [], "usage": usage.as_object()}) if self._includes_usage else b""
        return told + DONE

    def failed(self, error: ApiError) -> bytes:
        """What one ends with that is not answered to its end."""
        return event(error.as_object())

    def whole(self, texts: list[str], reasons: list[str], usage: Usage, tokens: list[list[Likely]]) -> dict[str, Any]:
        """The object of an answer that is not streamed. Args: `tokens` of each choice, as far as they are told of."""
        logprobs = [likely.of_completion(each) if self._tells_likely else None for each in tokens]
        choices = [
            {"index": index, "text": text, "logprobs": logprobs[index], "finish_reason": reason}
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": usage.as_object()}


class Shape(Protocol):
    """Of one reply."""

    def first(self, num_choices: int) -> bytes: ...

    def piece(self, piece: Piece) -> bytes: ...

    def last(self, usage: Usage) -> bytes: ...

    def failed(self, error: ApiError) -> bytes: ...

    def whole(
        self, texts: list[str], reasons: list[str], usage: Usage, tokens: list[list[Likely]]
    ) -> dict[str, Any]: ...
