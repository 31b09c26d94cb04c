"""Grammars as texts: what callers ask for, written as llguidance reads it. Pure; needs no llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import category

from shardnet.checks import iterated
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted, shortened

MOST_CHARACTERS = 256 << 10
"""Of a grammar: one is sent with each session, and read where the head is."""
KINDS = ("json_schema", "json_object", "regex", "lark", "choice")
"""The options that make one; at most one of them is given."""
ANY_OBJECT = {"type": "object"}
_WHITESPACE = {"whitespace_pattern": "[\\x20\\x0A\\x0D\\x09]{1,16}"}
"""Between the parts of JSON: small models write blanks for ever where they may."""
_GUIDANCE = "x-guidance"
_SIGNS = re.compile(r"\\.|.", re.DOTALL)
"""Of a regular expression: a character, or one with a backslash."""
_IN_CLASS = {"/": "\\/", "\n": "\\n", "\\d": "0-9"}
_PLAIN = _IN_CLASS | {"\\d": "[0-9]", "\\D": "[^0-9]"}


def schema_of(schema: Any) -> str:
    """A JSON schema as text: of its text, or of what that means in Python.

    Raises:
        BadRequest: it is none.
    """
    try:
        found = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(found, ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRequest(
            f"json_schema must be a JSON schema, but this is none: {shortened(str(error))}.", option="json_schema"
        ) from error
    if not isinstance(found, (dict, bool)):
        raise BadRequest(
            f"json_schema must be an object, as a JSON schema is, but is {quoted(found)}.", option="json_schema"
        )
    return _bounded("json_schema", text)


def expression_of(regex: Any) -> str:
    """
    Raises:
        BadRequest: it is no text, or empty.
    """
    return _text("regex", regex)


def lark_of(grammar: Any) -> str:
    """Raises as `expression_of`."""
    return _text("lark", grammar)


def choices_of(choices: Any) -> tuple[str, ...]:
    """Texts of which the answer is one.

    Raises:
        BadRequest: one is no text, or empty.
    """
    found = (choices,) if isinstance(choices, str) else tuple(iterated("choice", choices, "a list of texts"))
    for each in found:
        _text("choice", each)
        if any(category(sign) == "Cc" and sign not in "\n\r\t" for sign in each):
            raise BadRequest(f"choice must hold no control characters, but one is {quoted(each)}.", option="choice")
    if found:
        _bounded("choice", json.dumps(found))
    return tuple(dict.fromkeys(found))


def grammar_of(
    *, json_schema: str | None, json_object: bool, regex: str | None, lark: str | None, choice: Sequence[str]
) -> str:
    """The grammar that was asked for, as a text; empty where none was. The values are those of the functions above.

    Raises:
        BadRequest: several were.
    """
    asked = {
        "json_schema": None if json_schema is None else _of_schema(json.loads(json_schema)),
        "json_object": _of_schema(ANY_OBJECT) if json_object else None,
        "regex": None if regex is None else _of_lark(f"start: /{_within_slashes(regex)}/"),
        "lark": None if lark is None else _of_lark(lark),
        "choice": _of_lark("start: " + " | ".join(map(_literal, choice))) if choice else None,
    }
    given = {name: grammar for name, grammar in asked.items() if grammar is not None}
    if len(given) > 1:
        first, second, *_ = given
        raise BadRequest(f"{second} cannot be combined with {first}: an answer follows one grammar.", option=second)
    return next(iter(given.values()), "")


def bounded(grammar: Any) -> str:
    """A grammar that was made here, as it comes from elsewhere.

    Raises:
        BadRequest: it is too long, or no text.
    """
    if not isinstance(grammar, str):
        raise BadRequest(f"grammar must be text, but is {quoted(grammar)}.")
    return _bounded("grammar", grammar, 2 * MOST_CHARACTERS)


def calls_lark(schemas: Mapping[str, Mapping[str, Any]], *, is_one_call: bool) -> str:
    """A Lark grammar of a JSON list of calls, `{"name": ..., "arguments": {...}}` each.

    Args:
        schemas: of the arguments of each function.
    """
    numbers = range(len(schemas))
    lines = ['start: "[" call "]"' if is_one_call else 'start: "[" call (", " call)* "]"']
    lines.append("call: " + " | ".join(f"call_{number}" for number in numbers))
    for number, (name, schema) in enumerate(schemas.items()):
        before = _literal(f'{{"name": {_literal(name)}, "arguments": ')
        lines.append(f'call_{number}: {before} arguments_{number} "}}"')
        lines.append(f"arguments_{number}: %json {json.dumps(_with_blanks(dict(schema)))}")
    return "\n".join(lines)


def _of_schema(schema: dict[str, Any] | bool) -> str:
    return json.dumps({"grammars": [{"json_schema": _with_blanks(schema)}]})


def _with_blanks(schema: dict[str, Any] | bool) -> dict[str, Any] | bool:
    """With few blanks between the parts, unless the schema says how many."""
    if isinstance(schema, bool) or _GUIDANCE in schema:
        return schema
    return {**schema, _GUIDANCE: _WHITESPACE}


def _of_lark(grammar: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": grammar}]})


def _within_slashes(regex: str) -> str:
    """A regular expression as it stands between the slashes of Lark, in which a digit is one of 0 to 9."""
    found, is_in_class = [], False
    for sign in _SIGNS.findall(regex):
        if sign in ("[", "]"):
            is_in_class = sign == "["
        found.append((_IN_CLASS if is_in_class else _PLAIN).get(sign, sign))
    return "".join(found)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(option: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip("\0"):
        raise BadRequest(f"{option} must be text and not empty, but is {quoted(text)}.", option=option)
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise BadRequest(
            f"{option} holds what is no text: a null character, or half of a surrogate pair.", option=option
        )
    return _bounded(option, text)


def _bounded(option: str, text: str, most: int = MOST_CHARACTERS) -> str:
    if len(text) > most:
        raise BadRequest(
            f"{option} has {len(text):,} characters, more than the {most:,} that a grammar may have.", option=option
        )
    return text
