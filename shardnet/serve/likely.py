"""How likely tokens were, in the shapes of OpenAI's API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardnet.serve.answer import Likely
from shardnet.session.stream import Alternative

LEAST = -9999.0
"""What the API says of a token that was impossible."""


def of_chat(likely: Sequence[Likely]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat."""
    content = [
        {**_entry(each.token), "top_logprobs": [_entry(other) for other in each.token.alternatives]} for each in likely
    ]
    return {"content": content, "refusal": None}


def of_completion(likely: Sequence[Likely]) -> dict[str, Any]:
    """`choices[].logprobs` of a completion."""
    return {
        "tokens": [each.token.text for each in likely],
        "token_logprobs": [_value(each.token) for each in likely],
        "top_logprobs": [{other.text: _value(other) for other in each.token.alternatives} or None for each in likely],
        "text_offset": [each.offset for each in likely],
    }


def _entry(token: Alternative) -> dict[str, Any]:
    is_part = "\N{REPLACEMENT CHARACTER}" in token.text
    return {"token": token.text, "logprob": _value(token), "bytes": None if is_part else list(token.text.encode())}


def _value(token: Alternative) -> float:
    return max(token.logprob, LEAST)
