"""What the fields of a request come to: options of an answer, or a refusal by name. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardnet.errors import BadRequest
from shardnet.serve.bodies import MOST_STOPS, ChatBody, CompletionBody, Sampling
from shardnet.serve.constraining import form_of
from shardnet.serve.errors import ApiError, refused
from shardnet.session.options import GenerationOptions, biases_of

NOT_HERE = "is not something that this server can do. Leave it out."
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
"""Of fields that cannot be honoured, the values that ask for nothing."""
CHAT_NOT_HERE = (
    *("functions", "function_call"),
    *("modalities", "audio", "moderation", "prediction", "reasoning_effort", "service_tier", "store"),
    *("prompt_cache_options", "prompt_cache_retention", "verbosity", "web_search_options"),
    *("add_generation_prompt", "continue_final_message"),
)
COMPLETION_NOT_HERE = ("best_of", "echo", "suffix")
NOT_HERE_AT_ALL = ("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens")
"""Neither of chats nor of completions."""


@dataclass(frozen=True)
class Defaults:
    """What holds where a request says nothing."""

    chat_tokens: int = 1024
    completion_tokens: int = 16
    """As OpenAI's."""


@dataclass(frozen=True)
class Asked:
    """What is asked for, but for its prompt."""

    options: GenerationOptions
    left_out: frozenset[str]
    """Options of which the request says nothing, and the model's authors may."""
    num_choices: int
    streams: bool
    includes_usage: bool
    tokens_are_given: bool
    """Else the answer is no longer than there is room in the context."""
    client: str = ""
    """The `user` that the request names; in the queue each has a turn."""

    def for_model(self, proposed: Mapping[str, Any], max_new_tokens: int) -> Asked:
        """With what its authors propose where the request says nothing."""
        beside = {name: value for name, value in proposed.items() if name in self.left_out}
        return replace(self, options=replace(self.options, max_new_tokens=max_new_tokens, **beside))

    def option_of(self, choice: int) -> GenerationOptions:
        """That of one of several choices: each has a seed of its own."""
        seed = (self.options.seed + choice) % 2**63
        return GenerationOptions(**{**self.options, "seed": seed})


def of_chat(body: ChatBody, defaults: Defaults, form: Mapping[str, Any]) -> Asked:
    """
    Args:
        form: what the answer has to look like by the tools that are to be called.

    Raises:
        ApiError: a field cannot be honoured.
    """
    _refuse(body, CHAT_NOT_HERE)
    tokens = body.max_completion_tokens or body.max_tokens
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise refused("max_tokens", "and max_completion_tokens say different things. Leave max_tokens out.")
    if body.top_logprobs is not None and not body.logprobs:
        raise refused("top_logprobs", "is for logprobs. Set logprobs to true, or leave it out.")
    logprobs = (body.top_logprobs or 0) if body.logprobs else -1
    return _asked(body, tokens, defaults.chat_tokens, logprobs, form)


def of_completion(body: CompletionBody, defaults: Defaults) -> Asked:
    """Raises as `of_chat`."""
    _refuse(body, COMPLETION_NOT_HERE)
    logprobs = -1 if body.logprobs is None else body.logprobs
    return _asked(body, body.max_tokens, defaults.completion_tokens, logprobs, {})


def _refuse(body: Sampling, names: tuple[str, ...]) -> None:
    for name in (*names, *NOT_HERE_AT_ALL):
        value = getattr(body, name)
        if value is not None and value not in NEUTRAL.get(name, ()):
            raise refused(name, NOT_HERE, code="unsupported_parameter")


def _asked(body: Sampling, tokens: int | None, default_tokens: int, logprobs: int, calls: Mapping[str, Any]) -> Asked:
    if body.stream_options is not None and not body.stream:
        raise refused("stream_options", "is for streams. Leave it out, or set stream to true.")
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MOST_STOPS:
        raise refused("stop", f"may have {MOST_STOPS} texts at the most, but has {len(stops)}.")
    form = form_of(body)
    if form and calls:
        raise refused("tool_choice", "asks for a call, and the request for an answer of another form. Leave one out.")
    try:
        options = GenerationOptions(
            max_new_tokens=tokens or default_tokens,
            temperature=_or(body.temperature, 1.0),
            top_p=_or(body.top_p, 1.0) or TOP_ONE,
            top_k=max(0, body.top_k or 0),
            min_p=body.min_p or 0.0,
            repetition_penalty=_or(body.repetition_penalty, 1.0),
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed % 2**63,
            stop=[stop for stop in stops if stop],
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logit_bias=biases_of(body.logit_bias or {}),
            stop_token_ids=body.stop_token_ids or [],
            min_tokens=body.min_tokens or 0,
            ignore_eos=bool(body.ignore_eos),
            logprobs=logprobs,
            **form,
            **calls,
        )
    except BadRequest as error:
        raise _named(error) from error
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    left_out = frozenset(name for name in PROPOSED if getattr(body, name) is None)
    return Asked(options, left_out, body.n or 1, bool(body.stream), usage, tokens is not None, body.user or "")


PROPOSED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
TOP_ONE = 1e-9
"""A `top_p` of 0, which OpenAI allows: the likeliest token alone."""


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _named(error: BadRequest) -> ApiError:
    message = str(error).replace("max_new_tokens", "max_tokens")
    return ApiError(400, message[:1].upper() + message[1:], param=error.option or None, code="invalid_value")
