"""Prompts: text, token ids or chat messages, checked and encoded. One sentence for every mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from shardnet.checks import iterated
from shardnet.errors import BadRequest
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.quoting import quoted

Chat = Sequence[dict[str, str]]
"""Messages as chat templates take them: {"role": "user", "content": "..."}."""


def prompts_of(prompts: Any) -> list[Any]:
    """The prompts of one call.

    Raises:
        BadRequest: it is a single prompt.
    """
    if isinstance(prompts, (str, bytes, Mapping)):
        raise BadRequest(f"several prompts come in a list, but this is {quoted(prompts)}. Put it into a list.")
    return list(iterated("the prompts", prompts, "a list"))


def encode(prompt: Any, tokenizer: Any, *, chat: bool, vocabulary: int, model: str) -> list[int]:
    """The token ids of a prompt: text, token ids, or chat messages.

    Raises:
        BadRequest: it is none of these or empty, or the model has no chat template.
    """
    if isinstance(prompt, str):
        check_text("the prompt", prompt)
        messages = [{"role": "user", "content": prompt}]
        ids = _ids_of_chat(messages, tokenizer, model) if chat else _ids_of_text(prompt, tokenizer, model)
    else:
        parts = _parts_of(prompt)
        ids = _ids_of_chat(parts, tokenizer, model) if _is_chat(parts) else _plain_ids(parts)
    if not ids:
        raise BadRequest("the prompt is empty. Give at least one token.")
    if wrong := [token for token in ids if not 0 <= token < vocabulary]:
        raise BadRequest(f"a token id is {quoted(wrong[0])}, which is not in the model's vocabulary of {vocabulary}.")
    return ids


def _ids_of_text(text: str, tokenizer: Any, model: str) -> list[int]:
    with read_by_others(lambda reason: BadRequest(f"the tokenizer of {model} refuses this prompt: {reason}.")):
        return list(tokenizer(text)["input_ids"])


def _parts_of(prompt: Any) -> list[Any]:
    """Ids or messages, also from arrays."""
    if isinstance(prompt, (bytes, bytearray, memoryview, Mapping, Set)):
        raise BadRequest(f"a prompt must be text, token ids, or a list of chat messages, but is {quoted(prompt)}.")
    parts = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    return list(iterated("a prompt", parts, "text, token ids, or a list of chat messages"))


def _is_chat(parts: Sequence[Any]) -> bool:
    return bool(parts) and isinstance(parts[0], Mapping)


def _plain_ids(parts: Iterable[Any]) -> list[int]:
    ids = list(parts)
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise BadRequest(f"a token id must be a whole number, but one is {quoted(token)}.")
    return [int(token) for token in ids]


def _ids_of_chat(messages: Sequence[Any], tokenizer: Any, model: str) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise BadRequest(f"{model} has no chat template. Ask by plain text, without chat.")
    for message in messages:
        told = [message.get("role"), message.get("content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(each, str) for each in told):
            raise BadRequest(
                f'a chat message is {{"role": ..., "content": ...}} with texts, but one is {quoted(message)}.'
            )
        for name, text in message.items():
            if isinstance(text, str):
                check_text(f"the {quoted(name)} of a chat message", text)
    with read_by_others(lambda reason: BadRequest(f"the chat template of {model} refuses these messages: {reason}.")):
        encoded = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])


def check_text(name: str, text: str) -> None:
    """Python's texts may hold what no encoding has, and tokenizers call that a wrong type."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = text[error.start]
        raise BadRequest(
            f"{name} is no whole text: its character {error.start + 1} is {broken!r}, half of a character or a byte "
            "that could not be decoded. Decode it anew, as what it is, or replace what is broken."
        ) from error
