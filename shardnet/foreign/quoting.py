"""How a message quotes what others wrote: short, on one line, and printable, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_CHARACTERS = 60
MOST_DIGITS = 20


def quoted(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A value as Python would write it where that is short, and what it is in words where it is not."""
    if isinstance(value, str):
        return _in_the_middle(value, most)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**MOST_DIGITS:
        digits = int(value.bit_length() * 0.30103) + 1  # str() refuses more than 4300 digits
        return f"a whole number of about {digits} digits"
    if isinstance(value, (Mapping, list, tuple, set, frozenset, bytes)) and len(value):
        return _container(value)
    return shortened(repr(value), most)


def counted(number: int, things: str) -> str:
    """ "1 token", "2 tokens": so many of what takes an s."""
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def shortened(text: str, most: int = 200) -> str:
    """A text of others that stands in a sentence without quotation marks: a path, another program's message."""
    shown = text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2 - 3) :]}"
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in shown)


def _in_the_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return repr(text)
    return f"{text[: most - 20]!r}... ({len(text)} characters)"


def _container(value: Any) -> str:
    """Never its whole `repr`: that of a large or deep one takes long, or ends in a RecursionError."""
    if isinstance(value, Mapping):
        return f"an object with the key{'s' if len(value) > 1 else ''} " + _some(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    plain = all(each is None or isinstance(each, (str, bool, int, float)) for each in list(value)[:3])
    return f"[{_some(value)}]" if plain else f"a list of {len(value)}"


def _some(values: Any) -> str:
    first = [quoted(each, 30) for each, _ in zip(values, range(3), strict=False)]
    return ", ".join(first) + (", ..." if len(values) > len(first) else "")
