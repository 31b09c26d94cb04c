"""Values that come from a caller's Python: of the right type, in range, and plain enough to travel."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted


def whole_number(name: str, value: Any, *, least: float, most: int | None = None) -> int:
    """The value as an int (numpy's whole numbers are fine, too).

    Raises:
        BadRequest: it is something else, below `least`, or above `most`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise BadRequest(f"{name} must be a whole number, but is {quoted(value)}.")
    whole = int(value)
    if whole < least:
        raise BadRequest(f"{name} must be at least {least}, but is {quoted(whole)}.")
    if most is not None and whole > most:
        raise BadRequest(f"{name} must be at most {most}, but is {quoted(whole)}.")
    return whole


def number(name: str, value: Any) -> float:
    """The value as a float.

    Raises:
        BadRequest: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadRequest(f"{name} must be a number, but is {quoted(value)}.")
    try:
        return float(value)
    except OverflowError as cause:
        raise BadRequest(f"{name} must be a number that is not too large, but is {quoted(value)}.") from cause


def iterated(name: str, value: Any, wanted: str) -> Iterable[Any]:
    """A value that holds others.

    Raises:
        BadRequest: it is something else.
    """
    if not isinstance(value, Iterable):
        raise BadRequest(f"{name} must be {wanted}, but is {quoted(value)}.")
    return value
