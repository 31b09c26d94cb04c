"""Checks of the fields of a configuration: each refuses what cannot be meant, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import Bound, Name, faults
from shardnet.foreign.quoting import quoted

MOST_COMPARED = 200
"""Characters of a name for which a near one is sought: of very long ones that takes minutes."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or nothing."""
    if len(name) > MOST_COMPARED:
        return ""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_keys(what: str, row: Any, known: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a row that is no object, has an unknown key, or lacks a required one."""
    if not isinstance(row, dict):
        raise BadConfiguration(f"{what} must be an object with keys, but is {quoted(row)} instead.")
    for key in row:
        if key not in known:
            hint = nearest(str(key), known) or f"; known are {', '.join(known)}"
            raise BadConfiguration(f"{what} has an unknown key {quoted(key)}{hint}.")
    for key in required:
        if key not in row:
            raise BadConfiguration(f"{what} lacks the key {key!r}.")


def check_list(what: str, value: Any) -> Sequence[Any]:
    """Refuse what is no list."""
    if not isinstance(value, (list, tuple)):
        raise BadConfiguration(f"{what} must be a list, but is {quoted(value)} instead.")
    return value


def check_name(what: str, name: Any) -> None:
    """Refuse a name that is no text, empty, or cannot be shown."""
    fault = Name().fault(name)
    if fault is not None:
        raise BadConfiguration(f"{what} {fault}.")


def check_bounds(record: Any, kind: str, name: str) -> None:
    """Refuse a record with a value out of the bounds that stand beside its fields.

    Args:
        kind, name: whose values they are, for the message.
    """
    for key, fault in faults(record):
        raise BadConfiguration(f"{key} of {kind} {quoted(name)} {fault}.")


def check_value(key: str, value: Any, bound: Bound) -> None:
    """Refuse a value out of bounds."""
    fault = bound.fault(value)
    if fault is not None:
        raise BadConfiguration(f"{key} {fault}.")


def check_flag(key: str, value: Any) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise BadConfiguration(f"{key} must be true or false, but is {quoted(value)} instead.")


def check_unique(what: str, names: Sequence[str], note: str = "") -> None:
    """Refuse a name that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadConfiguration(f"Two {what} are named {quoted(name)}; names must differ{note}.")
        seen.add(name)
