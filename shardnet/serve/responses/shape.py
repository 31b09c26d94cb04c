"""Responses in the shapes of OpenAI's API: an object of items, and the events by which these come."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from shardnet.serve import likely
from shardnet.serve.answer import Likely
from shardnet.serve.errors import ApiError
from shardnet.serve.formats.parts import Call, Parser, Part, Text, Thought
from shardnet.serve.reply import Piece, Usage
from shardnet.serve.responses.bodies import ResponseBody
from shardnet.serve.shapes import Named, encode

TEXT, THOUGHT = "output_text", "reasoning_text"
Item = dict[str, Any]


class ResponseShape:
    """`response`. One choice.

    Args:
        parser: makes what its text is parsed with.
        on_done: told of the whole object.
    """

    def __init__(
        self,
        named: Named,
        body: ResponseBody,
        parser: Callable[[], Parser],
        on_done: Callable[[Item], object],
        *,
        tells_likely: bool,
    ) -> None:
        self._body = body
        self._parser = parser()
        self._on_done = on_done
        self._tells_likely = tells_likely
        self._number = 0
        """Of the next event."""
        self._items: list[Item] = []
        self._open: Item | None = None
        """The last of them, as long as text is added to it."""
        self._tokens: list[Likely] = []
        """Those that were not told of yet."""
        self._reason = ""
        self._response = described(named, body)

    def first(self, num_choices: int) -> bytes:
        """What a stream begins with."""
        told = {"response": self._response}
        return self._event("response.created", told) + self._event("response.in_progress", told)

    def piece(self, piece: Piece) -> bytes:
        """What comes next."""
        self._tokens += piece.likely
        told = b"".join(map(self._part, self._parser.feed(piece.text)))
        if piece.finish_reason is not None:
            self._reason = piece.finish_reason
            told += b"".join(map(self._part, self._parser.finish()))
            if not self._items:
                told += self._part(Text(""))
            told += self._close()
        return told

    def last(self, usage: Usage) -> bytes:
        """What a stream ends with."""
        response = self._ended(usage)
        return self._event(f"response.{response['status']}", {"response": response})

    def failed(self, error: ApiError) -> bytes:
        """What one ends with that is not answered to its end."""
        said = {"code": error.code or "server_error", "message": error.message}
        response = {**self._response, "status": "failed", "error": said, "output": self._items}
        return self._event("response.failed", {"response": response})

    def whole(self, texts: list[str], reasons: list[str], usage: Usage, tokens: list[list[Likely]]) -> Item:
        """The object of an answer that is not streamed."""
        self.piece(Piece(0, texts[0], reasons[0], tuple(tokens[0])))
        return self._ended(usage)

    def _ended(self, usage: Usage) -> Item:
        is_cut = self._reason == "length"
        response = {
            **self._response,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._items,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }
        self._on_done(response)
        return response

    # ---- items ----

    def _part(self, part: Part) -> bytes:
        if isinstance(part, Call):
            return self._close() + self._call(part)
        kind = THOUGHT if isinstance(part, Thought) else TEXT
        told = b""
        if self._open is None or self._open["content"][0]["type"] != kind:
            told = self._close() + self._begin(kind)
        return told + self._more(kind, part.text)

    def _begin(self, kind: str) -> bytes:
        """A message, or a thought."""
        if kind == TEXT:
            item: Item = {"id": _new("msg_"), "type": "message", "role": "assistant"}
            part: Item = {"type": TEXT, "text": "", "annotations": [], "logprobs": []}
        else:
            item = {"id": _new("rs_"), "type": "reasoning", "summary": []}
            part = {"type": THOUGHT, "text": ""}
        self._open = {**item, "status": "in_progress", "content": [part]}
        self._items.append(self._open)
        added = self._of_item("response.output_item.added", item={**self._open, "content": []})
        return added + self._of_part("response.content_part.added", part=dict(part))

    def _more(self, kind: str, text: str) -> bytes:
        assert self._open is not None, "it has begun"
        part = self._open["content"][0]
        part["text"] += text
        if kind == THOUGHT:
            return self._of_part(f"response.{kind}.delta", delta=text)
        tokens = self._told_tokens()
        part["logprobs"] += tokens
        return self._of_part(f"response.{kind}.delta", delta=text, logprobs=tokens)

    def _close(self) -> bytes:
        """Nothing is added to the last item any more."""
        item = self._open
        if item is None:
            return b""
        part = item["content"][0]
        if part["type"] == TEXT:
            part["logprobs"] += self._told_tokens()
        beside = {"logprobs": part["logprobs"]} if part["type"] == TEXT else {}
        told = self._of_part(f"response.{part['type']}.done", text=part["text"], **beside)
        told += self._of_part("response.content_part.done", part=part)
        item["status"] = "incomplete" if self._reason == "length" else "completed"
        told += self._of_item("response.output_item.done", item=item)
        self._open = None
        return told

    def _call(self, call: Call) -> bytes:
        item = {
            "id": _new("fc_"),
            "type": "function_call",
            "call_id": _new("call_"),
            "name": call.name,
            "arguments": call.arguments,
            "status": "incomplete" if self._reason == "length" else "completed",
        }
        self._items.append(item)
        begun = {**item, "arguments": "", "status": "in_progress"}
        told = self._of_item("response.output_item.added", item=begun)
        named = {"item_id": item["id"]}
        told += self._of_item("response.function_call_arguments.delta", **named, delta=call.arguments)
        told += self._of_item(
            "response.function_call_arguments.done", **named, name=call.name, arguments=call.arguments
        )
        return told + self._of_item("response.output_item.done", item=item)

    def _told_tokens(self) -> list[Item]:
        tokens, self._tokens = self._tokens, []
        found: list[Item] = likely.of_chat(tokens)["content"]
        return found if self._tells_likely else []

    # ---- events ----

    def _of_part(self, kind: str, **what: Any) -> bytes:
        return self._of_item(kind, item_id=self._items[-1]["id"], content_index=0, **what)

    def _of_item(self, kind: str, **what: Any) -> bytes:
        return self._event(kind, {"output_index": len(self._items) - 1, **what})

    def _event(self, kind: str, what: Item) -> bytes:
        number, self._number = self._number, self._number + 1
        return f"event: {kind}\ndata: {encode({'type': kind, 'sequence_number': number, **what})}\n\n".encode()


def described(named: Named, body: ResponseBody) -> Item:
    """What all objects of one response say before it has ended."""
    said = body.model_dump(by_alias=True, exclude_none=True)
    text = {"format": {"type": "text"}, **said.get("text", {})}
    return {
        "id": f"resp_{named.id}",
        "object": "response",
        "created_at": named.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": text,
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": said.get("tools", []),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _new(prefix: str) -> str:
    return prefix + secrets.token_hex(16)
