"""Answers in the shapes of OpenAI's API: whole objects, and pieces of a stream that are mostly made once. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shardnet.serve.reply import Piece, Usage

DONE = b"data: [DONE]\n\n"
_encode = json.JSONEncoder(separators=(",", ":")).encode
"""ASCII alone: many clients take U+2028 and its kin for the end of a line, and half a character has no bytes."""


def event(what: Any) -> bytes:
    """One event of a stream."""
    return f"data: {_encode(what)}\n\n".encode()


@dataclass(frozen=True)
class Named:
    """What all parts of one answer say."""

    id: str
    created: int
    model: str


class ChatShape:
    """`chat.completion`."""

    prefix = "chatcmpl-"

    def __init__(self, named: Named, *, includes_usage: bool) -> None:
        self._head = {"id": named.id, "object": "chat.completion.chunk", "created": named.created, "model": named.model}
        self._whole = {**self._head, "object": "chat.completion"}
        self._includes_usage = includes_usage
        head = _encode(self._head)[:-1]
        self._before = f'data: {head},"choices":[{{"index":'
        self._after = ',"usage":null}\n\n' if includes_usage else "}\n\n"

    def first(self, num_choices: int) -> bytes:
        """What a stream begins with."""
        delta = '"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]'
        parts = [f"{self._before}{index},{delta}{self._after}" for index in range(num_choices)]
        return "".join(parts).encode()

    def piece(self, piece: Piece) -> bytes:
        """What comes next."""
        told = ""
        if piece.text:
            text = f'"delta":{{"content":{_encode(piece.text)}}},"logprobs":null,"finish_reason":null}}]'
            told = f"{self._before}{piece.choice},{text}{self._after}"
        if piece.finish_reason is not None:
            end = f'"delta":{{}},"logprobs":null,"finish_reason":"{piece.finish_reason}"}}]'
            told += f"{self._before}{piece.choice},{end}{self._after}"
        return told.encode()

    def last(self, usage: Usage) -> bytes:
        """What a stream ends with."""
        told = event({**self._head, "choices": [], "usage": usage.as_object()}) if self._includes_usage else b""
        return told + DONE

    def whole(self, texts: list[str], reasons: list[str], usage: Usage) -> dict[str, Any]:
        """The object of an answer that is not streamed."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {**self._whole, "choices": choices, "usage": usage.as_object()}


class CompletionShape:
    """`text_completion`."""

    prefix = "cmpl-"

    def __init__(self, named: Named, *, includes_usage: bool) -> None:
        self._head = {"id": named.id, "object": "text_completion", "created": named.created, "model": named.model}
        self._includes_usage = includes_usage
        self._before = f'data: {_encode(self._head)[:-1]},"choices":[{{"index":'
        self._after = ',"usage":null}\n\n' if includes_usage else "}\n\n"

    def first(self, num_choices: int) -> bytes:
        """Nothing: a stream begins with text."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """What comes next."""
        reason = "null" if piece.finish_reason is None else f'"{piece.finish_reason}"'
        text = f'"text":{_encode(piece.text)},"logprobs":null,"finish_reason":{reason}}}]'
        return f"{self._before}{piece.choice},{text}{self._after}".encode()

    def last(self, usage: Usage) -> bytes:
        """What a stream ends with."""
        told = event({**self._head, "choices": [], "usage": usage.as_object()}) if self._includes_usage else b""
        return told + DONE

    def whole(self, texts: list[str], reasons: list[str], usage: Usage) -> dict[str, Any]:
        """The object of an answer that is not streamed."""
        choices = [
            {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": usage.as_object()}


Shape = ChatShape | CompletionShape
