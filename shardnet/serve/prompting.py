"""The token ids of what a request asks: messages through the model's chat template, or a prompt as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.foreign.libraries import read_by_others
from shardnet.serve.bodies import Message
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
    if message.role == "tool" or message.tool_calls or message.tool_call_id is not None:
        raise refused(f"{where}.role", "tool, and calls of tools, are nothing that this server knows.")
    content = message.content
    text = "".join(part.text for part in content) if isinstance(content, list) else content
    if text is None:
        text = message.refusal if message.role == "assistant" else None
    if text is None:
        raise refused(f"{where}.content", "must be text.")
    role = "system" if message.role == "developer" else message.role
    told = {"role": role, "content": text}
    return told if message.name is None else {**told, "name": message.name}


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
            list(messages), add_generation_prompt=True, return_dict=True, chat_template=template, **beside
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
