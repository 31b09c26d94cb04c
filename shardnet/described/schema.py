"""Reads frozen records from plain mappings, and says exactly what is wrong with a mapping that does not fit.

The fields of the record are the schema: their names carry the units, their types and bounds say what may stand there.
An unknown key is an error that names the nearest known one. Standard library only; YAML is read in
`launch/files/config_files.py`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import bound_in
from shardnet.foreign.quoting import quoted, shortened

Record = TypeVar("Record")
MOST_COMPARED = 200
"""Characters of a name for which a near one is sought: of very long ones that takes minutes."""
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class LocatedDict(dict[str, Any]):
    """A mapping that knows on which line of its file each key stands."""

    def __init__(self, entries: Mapping[str, Any], lines: Mapping[str, int], line: int) -> None:
        super().__init__(entries)
        self.lines = dict(lines)
        self.line = line


@dataclass(frozen=True)
class Place:
    """Where in which file something stands, for error messages: `home.yaml, line 12, devices[2]`."""

    file: str = ""
    path: str = ""
    line: int | None = None

    def at(self, mapping: object, key: str) -> Place:
        """The place of `key` in `mapping`."""
        line = getattr(mapping, "lines", {}).get(key, self.line)
        return Place(self.file, f"{self.path}.{key}" if self.path else key, line)

    def item(self, index: int, value: object) -> Place:
        """The place of an entry of a list."""
        return Place(self.file, f"{self.path}[{index}]", getattr(value, "line", self.line))

    def error(self, sentence: str) -> BadConfiguration:
        parts = [self.file, f"line {self.line}" if self.line else "", self.path]
        return BadConfiguration(f"{', '.join(part for part in parts if part) or 'configuration'}: {sentence}")


def read_record(kind: type[Record], data: object, place: Place) -> Record:
    """Make a `kind` (a frozen dataclass) from a mapping.

    Raises:
        BadConfiguration: an unknown or missing key, a value of a wrong type, or what `kind.__post_init__` refuses.
    """
    if not isinstance(data, Mapping):
        raise place.error(f"must be a mapping with keys such as {_some_keys(kind)}, but is {quoted(data)}.")
    hints = _hints(kind)  # type: ignore[arg-type]
    known = {field.name.removesuffix("_"): field for field in fields(kind)}  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            hint = nearest_name(str(key), list(known))
            raise place.at(data, shortened(str(key))).error(f"unknown key {quoted(str(key))}; {hint}")
    values = {}
    for key, field in known.items():
        if key in data:
            values[field.name] = _read_value(hints[field.name], data[key], place.at(data, key))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise place.error(f"the key {key!r} is missing; add it.")
    try:
        return kind(**values)
    except BadConfiguration as error:
        raise place.error(str(error)) from error


def nearest_name(name: str, known: Sequence[str]) -> str:
    """`did you mean 'x'?`, or the list of what there is, to end an error message with."""
    close = get_close_matches(name, known, n=1, cutoff=0.5) if len(name) <= MOST_COMPARED else []
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)[:12])}."


def require(condition: bool, sentence: str) -> None:
    """For `__post_init__` of records: what must hold of their values."""
    if not condition:
        raise BadConfiguration(sentence)


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _some_keys(kind: type) -> str:
    return ", ".join(field.name.removesuffix("_") for field in fields(kind)[:3])


def _read_value(kind: Any, value: object, place: Place) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        return _read_bounded(kind, value, place)
    if origin in (Union, UnionType):
        return _read_union(list(get_args(kind)), value, place)
    if origin is tuple:
        return _read_list(get_args(kind)[0], value, place)
    if origin is Mapping:
        return _read_mapping(get_args(kind)[1], value, place)
    if is_dataclass(kind):
        return read_record(kind, value, place)  # type: ignore[arg-type]
    return _read_scalar(kind, value, place)


def _read_list(kind: Any, value: object, place: Place) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise place.error(f"must be a list, but is {quoted(value)}.")
    return tuple(_read_value(kind, each, place.item(i, each)) for i, each in enumerate(value))


def _read_mapping(kind: Any, value: object, place: Place) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise place.error(f"must be a mapping, but is {quoted(value)}.")
    return {key: _read_value(kind, each, place.at(value, str(key))) for key, each in value.items()}


def _read_bounded(kind: Any, value: object, place: Place) -> Any:
    read = _read_value(get_args(kind)[0], value, place)
    bound = bound_in(kind)
    if bound is not None and read is not None:
        many = isinstance(read, tuple)
        for index, each in enumerate(read if many else (read,)):
            fault = bound.fault(each)
            if fault is not None:
                raise (place.item(index, each) if many else place).error(f"{fault}.")
    return read


def _read_union(kinds: list[Any], value: object, place: Place) -> Any:
    if value is None and NoneType in kinds:
        return None
    listed = [kind for kind in kinds if get_origin(kind) is tuple]
    plain = [kind for kind in kinds if kind not in (*listed, NoneType)]
    is_single = isinstance(value, (str, int, float))
    fitting = plain if is_single or not listed else listed
    return _read_value((fitting or listed)[0], value, place)


def _read_scalar(kind: Any, value: object, place: Place) -> Any:
    is_bool = isinstance(value, bool)
    if kind is float and isinstance(value, int) and not is_bool:
        value = _as_float(value)
    if not isinstance(value, kind) or is_bool != (kind is bool):
        raise place.error(f"must be {_KINDS[kind]}, but is {quoted(value)}.")
    if kind is float and not math.isfinite(value):
        raise place.error(f"must be a finite number, but is {value}.")
    if kind is str and any("\ud800" <= each <= "\udfff" for each in value):
        raise place.error(f"holds half a character, {quoted(value)}, which is no text.")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # more than 308 digits
        return math.inf
