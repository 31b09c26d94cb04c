"""What a value of a configuration may be, declared beside its field: `weight_bytes: Annotated[float, Amount(1e18)]`.

A bound says in words what is wrong with a value; whoever reads a file, a record or an option asks it, and says whose
value it is. The magnitudes leave room for everything that can be meant, and none for numbers whose sums, products and
quotients leave what floating point can hold.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType
from typing import Annotated, Any, Protocol, get_args, get_origin, get_type_hints

from shardnet.errors import BadConfiguration
from shardnet.foreign.quoting import quoted


class Bound(Protocol):
    """What a value may be."""

    def fault(self, value: Any) -> str | None:
        """What is wrong with the value, to follow whose value it is; None where nothing is."""


@dataclass(frozen=True)
class Amount:
    """A finite number, 0 or from `smallest` to `most`."""

    most: float
    above_zero: bool = False
    smallest: float = 1e-18

    def fault(self, value: Any) -> str | None:
        asked = "greater than 0" if self.above_zero else "0 or more"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.smallest <= value <= self.most or (value == 0 and not self.above_zero):
                return None
            if value > self.most:
                asked = f"at most {self.most:g}"
            elif value > 0:
                asked = f"{'' if self.above_zero else '0 or '}at least {self.smallest:g}"
        return f"must be a number, {asked}, but is {quoted(value)} instead"

    def clamped(self, value: float) -> float:
        """The nearest value within the bounds, for a number that was reckoned from one within them."""
        return value if value == 0 and not self.above_zero else min(max(value, self.smallest), self.most)


@dataclass(frozen=True)
class Count:
    """A whole number from `least` to `most`."""

    least: int
    most: int

    def fault(self, value: Any) -> str | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if is_whole and self.least <= value <= self.most:
            return None
        asked = f"at most {self.most}" if is_whole and value > self.most else f"{self.least} or more"
        return f"must be a whole number, {asked}, but is {quoted(value)} instead"


@dataclass(frozen=True)
class Name:
    """A text that a table, a file and a message can show."""

    most: int = 200

    def fault(self, value: Any) -> str | None:
        if not isinstance(value, str) or not value.strip():
            return f"must have a name in words, but has {quoted(value)} instead"
        if len(value) > self.most:
            return f"must have a name of at most {self.most} characters, but has {quoted(value)} instead"
        if any(unicodedata.category(each) in ("Cc", "Cs") for each in value):
            return (
                f"must have a name without control characters and halves of characters, but has {quoted(value)} instead"
            )
        return None


BYTES = Amount(1e18)
SECONDS = Amount(1e9)
"""Thirty years: of a step, of a hop."""
BYTES_PER_S = Amount(1e18, above_zero=True, smallest=1e-6)
WATTS = Amount(1e9)
JOULES = Amount(1e18)
JOULES_PER_BYTE = Amount(1e6)
TOKENS = Count(0, 10**9)
SESSIONS = Count(1, 10**6)


def extent_of(value: Any) -> tuple[int, int]:
    """How many values there are in nested lists and objects, themselves included; how long the longest list is."""
    count, longest, waiting = 0, 0, [value]
    while waiting:
        each = waiting.pop()
        count += 1
        if isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, (list, tuple)):
            longest = max(longest, len(each))
            waiting += each
    return count, longest


@cache
def bounds_of(kind: Any) -> tuple[tuple[str, Bound, bool], ...]:
    """The bounded fields of a dataclass: name, bound, and whether the field may be None."""
    hints = get_type_hints(kind, include_extras=True)
    named = ((each.name, bound_in(hints[each.name]), hints[each.name]) for each in fields(kind))
    return tuple((name, bound, NoneType in get_args(get_args(hint)[0])) for name, bound, hint in named if bound)


def bound_in(hint: Any) -> Bound | None:
    """The bound of an `Annotated` type."""
    if get_origin(hint) is not Annotated:
        return None
    return next((each for each in get_args(hint)[1:] if isinstance(each, (Amount, Count, Name))), None)


def faults(record: Any) -> Iterator[tuple[str, str]]:
    """Each field of a record with what is wrong with it; of a tuple, with its first wrong value."""
    kind: Any = type(record)
    for name, bound, may_be_none in bounds_of(kind):
        value = getattr(record, name)
        if value is None and may_be_none:
            continue
        for each in value if isinstance(value, tuple) else (value,):
            fault = bound.fault(each)
            if fault is not None:
                yield name, fault
                break


def check_fields(record: Any) -> None:
    """Refuse a record that has a value out of bounds; for `__post_init__`.

    Raises:
        BadConfiguration: names the field.
    """
    for name, fault in faults(record):
        raise BadConfiguration(f"{name.removesuffix('_')} {fault}.")
