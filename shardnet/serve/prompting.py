"""The token ids of what a request asks: messages through the model's chat template, or a prompt as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.foreign.libraries import read_by_others
from shardnet.serve.bodies import Message, ToolCall
from shardnet.serve.errors import refused
from shardnet.session.prompts import check_text


def messages_for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As chat templates take them.

    Raises:
        ApiError: one says what this server cannot tell a model.
    """
    return [_one(index, message) for index, message in enumerate(messages)]


def _one(index: int, message: Message) -> dict[str, Any]:
    where = f"messages[{index}]"
    calls, is_tool = message.tool_calls or [], message.role == "tool"
    if calls and message.role != "assistant":
        raise refused(f"{where}.tool_calls", "are for messages of the role assistant.")
    if (message.tool_call_id is not None) != is_tool:
        raise refused(f"{where}.tool_call_id", "is for messages of the role tool, and each of these has one.")
    content = message.content
    text = "".join(part.text for part in content) if isinstance(content, list) else content
    if text is None:
        text = (message.refusal or ("" if calls else None)) if message.role == "assistant" else None
    if text is None:
        raise refused(f"{where}.content", "must be text.")
    role = "system" if message.role == "developer" else message.role
    told: dict[str, Any] = {"role": role, "content": text}
    if message.reasoning_content is not None:
        told["reasoning_content"] = message.reasoning_content
    if calls:
        told["tool_calls"] = [_call(call) for call in calls]
    beside = {"name": message.name, "tool_call_id": message.tool_call_id}
    return told | {name: value for name, value in beside.items() if value is not None}


def _call(call: ToolCall) -> dict[str, Any]:
    """As templates take it: with the arguments as an object, where they are one."""
    said = call.function.arguments
    try:
        arguments = json.loads(said)
    except ValueError:
        arguments = said
    function = {"name": call.function.name, "arguments": arguments if isinstance(arguments, dict) else said}
    return {"id": call.id, "type": "function", "function": function}


def ids_of_chat(model: Model, messages: Sequence[dict[str, Any]], template: str | None, **beside: Any) -> list[int]:
    """
    Args:
        template: in place of the model's own.
        beside: what else the template gets.

    Raises:
        BadRequest: the model has no chat template, or it refuses these messages.
    """
    tokenizer, name = model.tokenizer, model.profile.name
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise BadRequest(f"{name} has no chat template. Use /v1/completions, or start the server with --chat-template.")
    for message in messages:
        for what, text in message.items():
            if isinstance(text, str):
                check_text(f"the {what} of a message", text)
    with read_by_others(lambda reason: BadRequest(f"the chat template of {name} refuses these messages: {reason}.")):
        encoded = tokenizer.apply_chat_template(
            list(messages), return_dict=True, chat_template=template, **{"add_generation_prompt": True, **beside}
        )
        ids = list(encoded["input_ids"])
    return model.encode(ids)


def texts_of(field: str, given: str | list[Any]) -> list[str | list[int]]:
    """One or several: text, texts, ids, or lists of ids.

    Raises:
        ApiError: there is none in that field.
    """
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    if not given:
        raise refused(field, "is empty. Give at least one token.")
    return list(given)
