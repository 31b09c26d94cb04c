"""What a message's annotations say: how its fields are laid out, and what each must be. Knows no network."""

from __future__ import annotations

import hashlib
import struct
import types
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Check = Callable[[Any], bool]
TENSOR_KINDS: set[type] = set()
"""What counts as a tensor; empty as long as nobody has imported `tensors`, and torch, which the door does without."""
_PLAIN = (bool, int, str, bytes, tuple, list, dict, type(None))


class Layout:
    """How a NamedTuple or a record is written: its whole numbers as one block of 64 bits each, then its other fields.

    A record is a frozen dataclass of several fields, as `shardnet.plan` has them.
    """

    def __init__(self, message: type) -> None:
        """Raises TypeError where an annotation says something that cannot travel."""
        hints = get_type_hints(message)
        self.name = message.__name__
        self.fields: tuple[str, ...]
        self.make: Callable[[Any], Any]
        self.values_of: Callable[[Any], tuple[Any, ...]] | None = None
        """Of a record, which is no tuple."""
        if is_dataclass(message):
            self.fields = tuple(field.name for field in fields(message))
            self.make = lambda values: message(*values)
            self.values_of = attrgetter(*self.fields)
        else:
            self.fields, self.make = message._fields, message._make  # type: ignore[attr-defined]
        self.numbers = tuple(index for index, field in enumerate(self.fields) if hints[field] is int)
        self.others = tuple(index for index, field in enumerate(self.fields) if hints[field] is not int)
        self._checks = [(index, _check_of(hints[self.fields[index]])) for index in self.others]
        self.block = struct.Struct(f"<{len(self.numbers)}q")

    def assemble(self, numbers: tuple[int, ...], others: list[Any]) -> Any:
        """The message.

        Raises:
            ValueError: a field is of another type than its annotation says.
        """
        fields: list[Any] = [None] * len(self.fields)
        for index, number in zip(self.numbers, numbers):
            fields[index] = number
        for (index, fits), value in zip(self._checks, others):
            if not fits(value):
                raise ValueError(f"{self.name}.{self.fields[index]} is a {type(value).__name__}")
            fields[index] = value
        return self.make(fields)


def mark_of(layouts: Sequence[Layout]) -> bytes:
    """Four bytes that differ where messages do. Names only: Pythons print annotations differently."""
    names = [(layout.name, layout.fields) for layout in layouts]
    return hashlib.sha256(repr(names).encode()).digest()[:4]


def _check_of(annotation: Any) -> Check:
    if annotation is Any:
        return lambda value: True
    if annotation is float:
        return lambda value: type(value) in (float, int)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _check_of_union(inner)
    if origin is Literal:
        return _check_of_literal(inner)
    if origin is dict:
        return _check_of_dict(*map(_check_of, inner))
    if origin in (tuple, list):
        return _check_of_sequence(origin, inner)
    if annotation is None:
        return lambda value: value is None
    if annotation in _PLAIN or _is_message(annotation) or annotation in TENSOR_KINDS:
        return lambda value: type(value) is annotation
    raise TypeError(f"{annotation!r} cannot travel in a message")


def _is_message(annotation: Any) -> bool:
    return isinstance(annotation, type) and (hasattr(annotation, "_fields") or is_dataclass(annotation))


def _check_of_union(inner: tuple[Any, ...]) -> Check:
    choices = [_check_of(choice) for choice in inner]
    return lambda value: any(fits(value) for fits in choices)


def _check_of_literal(choices: tuple[Any, ...]) -> Check:
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def _check_of_dict(key_fits: Check, value_fits: Check) -> Check:
    def fits(value: Any) -> bool:
        if type(value) is not dict:
            return False
        return all(map(key_fits, value)) and all(map(value_fits, value.values()))

    return fits


def _check_of_sequence(container: Any, inner: tuple[Any, ...]) -> Check:
    if container is list or inner[1:] == (...,):
        part_fits = _check_of(inner[0])

        def fits_each(value: Any) -> bool:
            return type(value) is container and all(map(part_fits, value))

        return fits_each
    parts = [_check_of(part) for part in inner]

    def fits_all(value: Any) -> bool:
        if type(value) is not tuple or len(value) != len(parts):
            return False
        return all(check(part) for check, part in zip(parts, value))

    return fits_all
