"""Chats in the shapes of OpenAI's API: a whole object, and pieces of a stream. Pure, but for the ids of calls."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

from shardnet.serve import likely
from shardnet.serve.answer import Likely
from shardnet.serve.errors import ApiError
from shardnet.serve.formats.parts import Call, Parser, Plain, Text, Thought
from shardnet.serve.reply import Piece, Usage
from shardnet.serve.shapes import DONE, Named, encode, event


class ChatShape:
    """`chat.completion`.

    Args:
        parser: makes what the text of each choice is parsed with.
        tells_likely: whether each token comes with how likely it was.
    """

    def __init__(
        self,
        named: Named,
        *,
        includes_usage: bool,
        parser: Callable[[], Parser] = Plain,
        tells_likely: bool = False,
    ) -> None:
        self._head = named.head("chatcmpl-", "chat.completion.chunk")
        self._whole = {**self._head, "object": "chat.completion"}
        self._includes_usage = includes_usage
        self._tells_likely = tells_likely
        self._new_parser = parser
        self._is_plain = not tells_likely and isinstance(parser(), Plain)
        self._choices: dict[int, _Choice] = {}
        head = encode(self._head)[:-1]
        self._before = f'data: {head},"choices":[{{"index":'
        self._after = ',"usage":null}\n\n' if includes_usage else "}\n\n"

    def first(self, num_choices: int) -> bytes:
        """What a stream begins with."""
        delta = '"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]'
        parts = [f"{self._before}{index},{delta}{self._after}" for index in range(num_choices)]
        return "".join(parts).encode()

    def piece(self, piece: Piece) -> bytes:
        """What comes next."""
        if not self._is_plain:
            return self._parsed(piece)
        told = ""
        if piece.text:
            text = f'"delta":{{"content":{encode(piece.text)}}},"logprobs":null,"finish_reason":null}}]'
            told = f"{self._before}{piece.choice},{text}{self._after}"
        if piece.finish_reason is not None:
            told += self._end(piece.choice, piece.finish_reason)
        return told.encode()

    def last(self, usage: Usage) -> bytes:
        """What a stream ends with."""
        told = event({**self._head, "choices": [], "usage": usage.as_object()}) if self._includes_usage else b""
        return told + DONE

    def failed(self, error: ApiError) -> bytes:
        """What one ends with that is not answered to its end."""
        return event(error.as_object())

    def whole(self, texts: list[str], reasons: list[str], usage: Usage, tokens: list[list[Likely]]) -> dict[str, Any]:
        """The object of an answer that is not streamed. Args: `tokens` of each choice, as far as they are told of."""
        choices = [
            self._choice(index, text, reason, tokens[index])
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {**self._whole, "choices": choices, "usage": usage.as_object()}

    def _choice(self, index: int, text: str, reason: str, tokens: list[Likely]) -> dict[str, Any]:
        choice = _Choice(self._new_parser())
        deltas = [*choice.deltas(text), *choice.end()]
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        for delta in deltas:
            for name, value in delta.items():
                message[name] = value if message.get(name) is None else message[name] + value
        calls = message.get("tool_calls")
        if calls:
            message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in calls]
        elif message["content"] is None:
            message["content"] = ""
        return {
            "index": index,
            "message": message,
            "logprobs": likely.of_chat(tokens) if self._tells_likely else None,
            "finish_reason": choice.reason(reason),
        }

    def _parsed(self, piece: Piece) -> bytes:
        """The same where text has parts, or tokens are told of: these go with the first part that comes."""
        choice = self._choices.get(piece.choice)
        if choice is None:
            choice = self._choices[piece.choice] = _Choice(self._new_parser())
        choice.tokens += piece.likely
        deltas = list(choice.deltas(piece.text))
        if piece.finish_reason is not None:
            deltas += choice.end()
            if choice.tokens and not deltas:
                deltas.append({"content": ""})
        told = ""
        for delta in deltas:
            tokens, choice.tokens = choice.tokens, []
            logprobs = encode(likely.of_chat(tokens)) if tokens else "null"
            what = f'"delta":{encode(delta)},"logprobs":{logprobs},"finish_reason":null}}]'
            told += f"{self._before}{piece.choice},{what}{self._after}"
        if piece.finish_reason is not None:
            told += self._end(piece.choice, choice.reason(piece.finish_reason))
        return told.encode()

    def _end(self, index: int, reason: str) -> str:
        return f'{self._before}{index},"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]{self._after}'


class _Choice:
    """One of them, as it is parsed."""

    def __init__(self, parser: Parser) -> None:
        self.tokens: list[Likely] = []
        """Those that were not told of yet."""
        self._parser = parser
        self._num_calls = 0

    def deltas(self, text: str) -> Iterable[dict[str, Any]]:
        """What some text adds to the message."""
        return map(self._delta, self._parser.feed(text))

    def end(self) -> Iterable[dict[str, Any]]:
        """What its end adds."""
        return map(self._delta, self._parser.finish())

    def reason(self, reason: str) -> str:
        """Why it ended."""
        return "tool_calls" if self._num_calls and reason == "stop" else reason

    def _delta(self, part: Text | Thought | Call) -> dict[str, Any]:
        if isinstance(part, Text):
            return {"content": part.text}
        if isinstance(part, Thought):
            return {"reasoning_content": part.text}
        index, self._num_calls = self._num_calls, self._num_calls + 1
        function = {"name": part.name, "arguments": part.arguments}
        call = {"index": index, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
        return {"tool_calls": [call]}
