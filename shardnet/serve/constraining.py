"""What an answer is to look like: OpenAI's `response_format`, and what vLLM's clients say for the same. Pure."""

from __future__ import annotations

from typing import Any

from shardnet.serve.bodies import Sampling
from shardnet.serve.errors import refused

GUIDED = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_grammar": "lark",
    "guided_choice": "choice",
}
"""vLLM's names, and ours."""
STRUCTURED = {
    "json": "json_schema",
    "json_object": "json_object",
    "regex": "regex",
    "grammar": "lark",
    "choice": "choice",
}


def form_of(body: Sampling) -> dict[str, Any]:
    """The option of an answer that says what it looks like; none where the request says nothing of that.

    Raises:
        ApiError: it says several things.
    """
    found = {name: (option, value) for name, option, value in _asked(body) if value is not None and value is not False}
    if len(found) > 1:
        first, second, *_ = found
        raise refused(second, f"cannot be combined with {first}: an answer follows one of them.")
    return dict(found.values())


def _asked(body: Sampling) -> list[tuple[str, str, Any]]:
    """All that a request may name, the option that it stands for, and what it says."""
    asked = [(name, option, getattr(body, name)) for name, option in GUIDED.items()]
    outputs, form = body.structured_outputs, body.response_format
    if outputs is not None:
        asked += [
            (f"structured_outputs.{name}", option, getattr(outputs, "schema_" if name == "json" else name))
            for name, option in STRUCTURED.items()
        ]
    if form is not None:
        if (form.type == "json_schema") != (form.json_schema is not None):
            raise refused("response_format", 'has a json_schema where, and only where, its type is "json_schema".')
        schema = None if form.json_schema is None else _schema_or_any(form.json_schema.schema_)
        asked += [
            ("response_format", "json_schema", schema),
            ("response_format.type", "json_object", form.type == "json_object"),
        ]
    return asked


def _schema_or_any(schema: dict[str, Any] | None) -> dict[str, Any]:
    return {} if schema is None else schema
