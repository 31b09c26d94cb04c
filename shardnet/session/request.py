"""What a caller asks of a model, checked and made plain: one sentence for every mistake, before any device is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from shardnet.checks import number, whole_number
from shardnet.errors import BadRequest
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.quoting import quoted
from shardnet.stage.sampling import check_sampling
from shardnet.transport.messages import SamplingOptions

Chat = Sequence[dict[str, str]]
"""Messages as chat templates take them: {"role": "user", "content": "..."}."""


def sampling_of(
    temperature: Any, top_k: Any, top_p: Any, min_p: Any, repetition_penalty: Any, seed: Any
) -> SamplingOptions:
    """The sampling options.

    Raises:
        BadRequest: one of them is impossible.
    """
    options = SamplingOptions(
        temperature=number("temperature", temperature),
        top_k=whole_number("top-k", top_k, least=0),
        top_p=number("top-p", top_p),
        min_p=number("min-p", min_p),
        repetition_penalty=number("repetition-penalty", repetition_penalty),
        seed=whole_number("seed", seed, least=0),
    )
    if (problem := check_sampling(options)) is not None:
        raise BadRequest(problem)
    return options


def stops_of(stop: Any) -> tuple[str, ...]:
    """The stop strings; a single one may come without a list.

    Raises:
        BadRequest: one is empty or no text.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(_iterated("stop", stop, "text or a list of texts"))
    for each in stops:
        if not isinstance(each, str):
            raise BadRequest(f"a stop string must be text, but is {quoted(each)}.")
        if not each:
            raise BadRequest("a stop string must not be empty.")
        _check_text("a stop string", each)
    return stops


def prompts_of(prompts: Any) -> list[Any]:
    """The prompts of one call.

    Raises:
        BadRequest: it is a single prompt.
    """
    if isinstance(prompts, (str, bytes, Mapping)):
        raise BadRequest(f"several prompts come in a list, but this is {quoted(prompts)}. Put it into a list.")
    return list(_iterated("the prompts", prompts, "a list"))


def check_length(num_prompt: int, max_new_tokens: Any, context_tokens: int) -> int:
    """The number of new tokens, of which there is room for as many as were asked for.

    Raises:
        BadRequest: there is not, or it is no number.
    """
    num_new = whole_number("max-new-tokens", max_new_tokens, least=1)
    if num_prompt + num_new > context_tokens:
        raise BadRequest(
            f"the prompt has {num_prompt} tokens and the answer may have {quoted(num_new)}, but the context holds "
            f"{context_tokens}. Shorten the prompt or lower --max-new-tokens."
        )
    return num_new


def encode(prompt: Any, tokenizer: Any, *, chat: bool, vocabulary: int, model: str) -> list[int]:
    """The token ids of a prompt: text, token ids, or chat messages.

    Raises:
        BadRequest: it is none of these or empty, or the model has no chat template.
    """
    if isinstance(prompt, str):
        _check_text("the prompt", prompt)
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
    return list(_iterated("a prompt", parts, "text, token ids, or a list of chat messages"))


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
        raise BadRequest(f"{model} has no chat template. Ask without --chat.")
    for message in messages:
        told = [message.get("role"), message.get("content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(each, str) for each in told):
            raise BadRequest(
                f'a chat message is {{"role": ..., "content": ...}} with texts, but one is {quoted(message)}.'
            )
        for name, text in message.items():
            if isinstance(text, str):
                _check_text(f"the {quoted(name)} of a chat message", text)
    with read_by_others(lambda reason: BadRequest(f"the chat template of {model} refuses these messages: {reason}.")):
        encoded = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])


def _check_text(name: str, text: str) -> None:
    """Python's texts may hold what no encoding has, and tokenizers call that a wrong type."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = text[error.start]
        raise BadRequest(
            f"{name} is no whole text: its character {error.start + 1} is {broken!r}, half of a character or a byte "
            "that could not be decoded. Decode it anew, as what it is, or replace what is broken."
        ) from error


def _iterated(name: str, value: Any, wanted: str) -> Iterable[Any]:
    if not isinstance(value, Iterable):
        raise BadRequest(f"{name} must be {wanted}, but is {quoted(value)}.")
    return value
