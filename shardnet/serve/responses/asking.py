"""A request for a response as the chat that it means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from shardnet.serve.bodies import ChatBody, refusal_of
from shardnet.serve.errors import ApiError
from shardnet.serve.responses.bodies import (
    CallItem,
    FlatName,
    FlatTool,
    Format,
    Item,
    ItemText,
    MessageItem,
    OutputItem,
    ResponseBody,
    ThoughtItem,
)

NAMES = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "logprobs": "include",
}
"""What this route calls fields of chats."""
LIKELY = "message.output_text.logprobs"
Messages = list[dict[str, Any]]


def chat_of(body: ResponseBody, before: Sequence[dict[str, Any]]) -> ChatBody:
    """
    Args:
        before: the messages of the responses that this one follows.

    Raises:
        ApiError: there is no such chat, in the words of chats.
    """
    instructions = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    is_likely = body.top_logprobs is not None or LIKELY in (body.include or [])
    fields = {
        "model": body.model,
        "messages": [*instructions, *before, *messages_of(body.input)],
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "stream": body.stream,
        "user": body.user,
        "tools": _tools(body.tools),
        "tool_choice": _choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _form(None if body.text is None else body.text.format),
        "logprobs": True if is_likely else None,
        "top_logprobs": body.top_logprobs,
    }
    try:
        return ChatBody.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise refusal_of(error) from None


def messages_of(given: str | Sequence[Item]) -> Messages:
    """As chats have them: thoughts and calls belong to the answer that they are part of."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: Messages = []
    thought = ""
    for item in given:
        if isinstance(item, ThoughtItem):
            thought += "".join(part.text for part in item.content or [])
        elif isinstance(item, OutputItem):
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        elif isinstance(item, MessageItem) and item.role != "assistant":
            found.append({"role": item.role, "content": _text(item.content)})
        else:
            _add_answer(found, item, thought)
            thought = ""
    return found


def _add_answer(found: Messages, item: MessageItem | CallItem, thought: str) -> None:
    """A call belongs to the answer before it; a text, or what was thought about, begins one."""
    is_text = isinstance(item, MessageItem)
    if thought or is_text or not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": None})
    answer = found[-1]
    if thought:
        answer["reasoning_content"] = thought
    if isinstance(item, MessageItem):
        answer["content"] = _text(item.content)
    else:
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        answer["tool_calls"] = [*answer.get("tool_calls", []), call]


def renamed(error: ApiError) -> ApiError:
    """An error about a chat, in the words of this route."""
    param = error.param
    if param is None:
        return error
    first, dot, rest = param.partition(".")
    name, bracket, index = first.partition("[")
    error.param = NAMES.get(name, name) + bracket + index + dot + rest
    return error


def _text(content: str | list[ItemText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _tools(tools: Sequence[FlatTool] | None) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    return [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in tools]


def _choice(choice: str | FlatName | None) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, FlatName) else choice


def _form(asked: Format | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    if asked.type != "json_schema":
        return {"type": asked.type}
    schema = {"name": asked.name, "schema": asked.schema_, "strict": asked.strict, "description": asked.description}
    return {"type": asked.type, "json_schema": schema}
