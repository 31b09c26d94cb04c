"""What an answer is made of, for clients: text, thoughts, calls of tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Text(NamedTuple):
    """What the user is told."""

    text: str


class Thought(NamedTuple):
    """What the model tells itself before."""

    text: str


class Call(NamedTuple):
    """A tool that is to be called."""

    name: str
    arguments: str
    """JSON, as it is given to the client."""


Part = Text | Thought | Call


class Parser(Protocol):
    """Of one choice: fed with its text in pieces of any size, it gives the same parts."""

    def feed(self, text: str) -> Iterable[Part]:
        """The parts that are certain now."""

    def finish(self) -> Iterable[Part]:
        """Those that were held back; nothing follows."""


class Plain:
    """All is text."""

    def feed(self, text: str) -> Iterable[Part]:
        return [Text(text)] if text else []

    def finish(self) -> Iterable[Part]:
        return []


@dataclass(frozen=True)
class Tools:
    """Those that a request offers."""

    names: frozenset[str]
    is_one_call: bool = False
    """Further calls of the same answer are left out."""

    def call_of(self, said: Any) -> Call | None:
        """The call that an object of JSON means; None where it means none of these tools."""
        if not isinstance(said, dict) or said.get("name") not in self.names:
            return None
        arguments = said.get("arguments", said.get("parameters", {}))
        if isinstance(arguments, str):  # some models write the text of an object
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return None
        if not isinstance(arguments, dict):
            return None
        return Call(said["name"], json.dumps(arguments, ensure_ascii=False))

    def calls_of(self, text: str) -> list[Call] | None:
        """The calls that a text of JSON means: an object, a list of them, or several with semicolons or blanks
        between; None where it is anything else.
        """
        said = _values_of(text)
        calls = [self.call_of(each) for each in said or []]
        whole = [each for each in calls if each is not None]
        return whole if whole and len(whole) == len(calls) else None


def _values_of(text: str) -> list[Any] | None:
    """All values of JSON in a text, those of lists one by one; None where it holds anything else."""
    decoder, found, rest = json.JSONDecoder(), [], text
    while rest:
        try:
            said, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return None
        found += said if isinstance(said, list) else [said]
        rest = rest[end:].lstrip(" \n\r\t;")
    return found


def held_back(text: str, tags: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a tag."""
    most = max(map(len, tags), default=1) - 1
    sizes = range(min(most, len(text)), 0, -1)
    return next((size for size in sizes if any(tag.startswith(text[-size:]) for tag in tags)), 0)
