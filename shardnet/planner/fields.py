"""Checks of the fields of a configuration: each refuses what cannot be meant, in one sentence."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from shardnet.errors import BadConfiguration


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_keys(what: str, row: Any, known: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a row that is no object, has an unknown key, or lacks a required one."""
    if not isinstance(row, dict):
        raise BadConfiguration(f"{what} must be an object with keys, but is {_shown(row)} instead.")
    for key in row:
        if key not in known:
            hint = nearest(str(key), known) or f"; known are {', '.join(known)}"
            raise BadConfiguration(f"{what} has an unknown key {key!r}{hint}.")
    for key in required:
        if key not in row:
            raise BadConfiguration(f"{what} lacks the key {key!r}.")


def check_list(what: str, value: Any) -> Sequence[Any]:
    """Refuse what is no list."""
    if not isinstance(value, (list, tuple)):
        raise BadConfiguration(f"{what} must be a list, but is {_shown(value)} instead.")
    return value


def check_name(what: str, name: Any) -> None:
    """Refuse a name that is no text, or empty."""
    if not isinstance(name, str) or not name.strip():
        raise BadConfiguration(f"{what} must have a name in words, but has {_shown(name)} instead.")


def check_amount(key: str, value: Any, kind: str = "", name: str = "", *, positive: bool = False) -> None:
    """Refuse what is no finite number, is negative, or (where it must be positive) is zero.

    Args:
        kind, name: whose value it is, for the message.
        positive: zero is refused too.
    """
    if _is_finite(value) and (value > 0 or (value == 0 and not positive)):
        return
    owner = f"{key} of {kind} {name!r}" if name else key
    bound = "greater than 0" if positive else "0 or more"
    raise BadConfiguration(f"{owner} must be a number, {bound}, but is {_shown(value)} instead.")


def check_count(key: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadConfiguration(f"{key} must be a whole number, {least} or more, but is {_shown(value)} instead.")


def check_flag(key: str, value: Any) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise BadConfiguration(f"{key} must be true or false, but is {_shown(value)} instead.")


def check_unique(what: str, names: Sequence[str], note: str = "") -> None:
    """Refuse a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadConfiguration(f"Two {what} are named {name!r}; names must differ{note}.")
        seen.add(name)


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
