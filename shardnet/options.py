"""Options that callers have, each declared once: type, default, what it may be, what it means.

    @dataclass(frozen=True, kw_only=True)
    class TeaOptions(Options):
        cups: Annotated[int, Whole(1), Meaning("Cups to make.")] = 2

A record refuses what is impossible. Its fields are the keywords of the functions that are decorated with
`takes(TeaOptions)`, and a record is handed to them as `brew(leaves, **options)`. The command line makes an option of
each field that has words for it (`launch/flags.py`).
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache, wraps
from types import NoneType
from typing import Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar, get_args, get_origin, get_type_hints

from shardnet.checks import number, whole_number
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

WIDTH = 120
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
Asked = ParamSpec("Asked")
Subject = TypeVar("Subject")
Self = TypeVar("Self")
Answer = TypeVar("Answer")


class Check(Protocol):
    """What an option may be."""

    def plain(self, name: str, value: Any) -> Any:
        """The value as it is used.

        Raises:
            BadRequest: it is none; the sentence begins with the name.
        """


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    least: int
    most: int = 2**63 - 1
    asked: str = ""
    """The bounds in words."""

    def plain(self, name: str, value: Any) -> int:
        whole = whole_number(name, value, least=-math.inf)
        if not self.least <= whole <= self.most:
            missed = f"at most {self.most}" if whole > self.most else f"{self.least} or more"
            raise BadRequest(f"{name} must be {self.asked or missed}, but is {quoted(whole)}.")
        return whole


@dataclass(frozen=True)
class Number:
    """A finite number within bounds."""

    asked: str
    """The bounds in words."""
    least: float
    most: float = math.inf
    above: bool = False
    """`least` itself is not allowed."""

    def plain(self, name: str, value: Any) -> float:
        plain = number(name, value)
        is_enough = plain > self.least if self.above else plain >= self.least
        if not (is_enough and plain <= self.most and math.isfinite(plain)):
            raise BadRequest(f"{name} must be {self.asked}, but is {plain}.")
        return plain


@dataclass(frozen=True)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    def plain(self, name: str, value: Any) -> str:
        if value not in self.words:
            raise BadRequest(f"{name} must be one of {', '.join(self.words)}, but is {quoted(value)}.")
        return str(value)


@dataclass(frozen=True)
class Made:
    """What a function makes of it, which says by itself what is wrong."""

    make: Callable[[Any], Any]

    def plain(self, name: str, value: Any) -> Any:
        return self.make(value)


@dataclass(frozen=True)
class Meaning:
    """What an option means, for the command line and for Python."""

    help: str = ""
    """For the command line, which does not offer it without."""
    about: str = ""
    """For Python, where other words are needed."""
    flag: str = ""
    """On the command line, where that is not the field's name."""
    short: str = ""
    panel: str | None = None
    metavar: str | None = None


class Options:
    """A record of options. Frozen, checked when it is made, and handed on as keywords: `f(**options)`."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, check in checks_of(kind).items():
            value = check.plain(name, getattr(self, name))
            object.__setattr__(self, name, value)

    def keys(self) -> list[str]:
        record: Any = self
        return [each.name for each in fields(record)]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass(frozen=True)
class _OrNone:
    """None, or what a check allows."""

    check: Check

    def plain(self, name: str, value: Any) -> Any:
        return None if value is None else self.check.plain(name, value)


@cache
def checks_of(kind: Any) -> dict[str, Check]:
    """What the fields of a record may be, where that is said."""
    checks: dict[str, Check] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        check = _found_in(hint, (Whole, Number, OneOf, Made))
        if check is not None:
            checks[name] = _OrNone(check) if NoneType in get_args(get_args(hint)[0]) else check
    return checks


def meaning_of(hint: Any) -> Meaning | None:
    """What stands beside the type of a field."""
    found: Meaning | None = _found_in(hint, (Meaning,))
    return found


def takes(
    record: Callable[Asked, Options],
) -> Callable[[Callable[Concatenate[Self, Subject, ...], Answer]], Callable[Concatenate[Self, Subject, Asked], Answer]]:
    """Show a record's fields as the keywords of a method that takes `**options`, to people and to type checkers."""

    def shown(method: Any) -> Any:
        own = list(inspect.signature(method).parameters.values())[:-1]
        parameters = [*own, *keywords_of(record).values()]
        known = {each.name for each in parameters}

        def check(options: dict[str, Any]) -> None:
            for name in options:
                if name not in known:
                    raise TypeError(
                        f"{method.__name__}() has no option {name!r}; help({method.__qualname__}) names all."
                    )

        @wraps(method)
        def checked(*arguments: Any, **options: Any) -> Any:
            check(options)
            return method(*arguments, **options)

        @wraps(method)
        async def checked_later(*arguments: Any, **options: Any) -> Any:
            check(options)
            return await method(*arguments, **options)

        seen: Any = checked_later if inspect.iscoroutinefunction(method) else checked
        seen.__signature__ = inspect.signature(method).replace(parameters=parameters)
        seen.__doc__ = _with_arguments(method.__doc__, record)
        return seen

    return shown


def keywords_of(record: Any) -> dict[str, inspect.Parameter]:
    """The fields of a record as keywords of a function."""
    return {
        each.name: inspect.Parameter(each.name, _KEYWORD, default=each.default, annotation=_plain_type(str(each.type)))
        for each in fields(record)
    }


def words_for(record: Any, field: str) -> str:
    """What a field means, for Python."""
    meaning = meaning_of(get_type_hints(record, include_extras=True)[field])
    assert meaning is not None
    return meaning.about or meaning.help[0].lower() + meaning.help[1:]


def _found_in(hint: Any, kinds: tuple[type, ...]) -> Any:
    beside = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((each for each in beside if isinstance(each, kinds)), None)


def _plain_type(annotation: str) -> str:
    """The type in the text of an annotation, without what stands beside it."""
    node = ast.parse(annotation, mode="eval").body
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        node = node.slice.elts[0]
    return ast.unparse(node)


def _with_arguments(doc: str, record: Any) -> str:
    """A docstring whose `Args:` name the fields, too."""
    before, found, rest = doc.partition("\n\n        Raises:")
    return "\n".join([before, *_described(record)]) + found + rest if "Args:" in before else doc


def _described(record: Any) -> Iterator[str]:
    for each in fields(record):
        text = f"{each.name}: {words_for(record, each.name)}"
        yield textwrap.fill(text, WIDTH, initial_indent=" " * 12, subsequent_indent=" " * 16)
