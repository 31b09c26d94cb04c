"""Values that come from a caller's Python: of the right type, in range, and plain enough to travel."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from shardnet.errors import BadRequest


def whole_number(name: str, value: Any, *, least: int) -> int:
    """The value as an int (numpy's whole numbers are fine, too).

    Raises:
        BadRequest: it is something else, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise BadRequest(f"{name} must be a whole number, but is {value!r}.")
    if value < least:
        raise BadRequest(f"{name} must be at least {least}, but is {value}.")
    return int(value)


def number(name: str, value: Any) -> float:
    """The value as a float.

    Raises:
        BadRequest: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BadRequest(f"{name} must be a number, but is {value!r}.")
    return float(value)
