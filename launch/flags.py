"""Commands whose options are the fields of records: each is declared once, where it is used.

A field has either the words of `shardnet.options.Meaning` beside it or, where only a command knows it, Typer's own.
What a value may be stands there, too; a sentence about a wrong one begins with the option's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from shardnet.errors import BadRequest
from shardnet.foreign.bounds import faults
from shardnet.options import checks_of, meaning_of

_SAME: Any = object()


@dataclass(frozen=True)
class Here:
    """How a command has a field otherwise than its record: `Annotated[Record, Here("field", default=3)]`."""

    field: str
    default: Any = _SAME
    read: Callable[[Any], Any] | None = None
    """What makes the value of what is typed. The type of its argument is that of the option."""


@dataclass(frozen=True)
class Only:
    """The fields that a command has as options; the others keep their defaults."""

    fields: tuple[str, ...]


class Given(frozenset[str]):
    """The fields whose options were typed: the others have their defaults. A command takes it beside its records."""


@dataclass(frozen=True)
class _Flag:
    """One option of a command, and the field that it fills."""

    field: str
    name: str
    annotation: Any
    default: Any
    read: Callable[[Any], Any] | None

    def value(self, typed: Any) -> Any:
        return typed if self.read is None else self.read(typed)


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer wants it: an option for each field of the records that it takes."""
    hints = get_type_hints(command, include_extras=True)
    wants_given = [name for name, hint in hints.items() if hint is Given]
    records = {name: _Record(hint) for name, hint in hints.items() if name not in ("return", *wants_given)}
    flags = [flag for record in records.values() for flag in record.flags]

    def run(invocation: typer.Context, **typed: Any) -> None:
        given = Given(name for name in typed if _is_typed(invocation, name))
        made = {name: record.made(typed) for name, record in records.items()}
        command(**made, **dict.fromkeys(wants_given, given))

    run.__doc__ = command.__doc__
    run.__annotations__ = {"invocation": typer.Context, **{flag.field: flag.annotation for flag in flags}}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("invocation", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(
                inspect.Parameter(
                    each.field, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.annotation
                )
                for each in flags
            ),
        ]
    )
    return run


def _is_typed(invocation: typer.Context, field: str) -> bool:
    source = invocation.get_parameter_source(field)
    return source is not None and source.name != "DEFAULT"


class _Record:
    """A record that a command takes, and its options."""

    def __init__(self, hint: Any) -> None:
        self._kind, *beside = get_args(hint) or (hint,)
        self._here = {each.field: each for each in beside if isinstance(each, Here)}
        only = [each.fields for each in beside if isinstance(each, Only)]
        self._names = only[0] if only else None
        self.flags = list(self._flags())

    def made(self, typed: dict[str, Any]) -> Any:
        """The record.

        Raises:
            BadRequest: a value is none; names the option.
        """
        checks = checks_of(self._kind)
        values: dict[str, Any] = {}
        try:
            for flag in self.flags:
                value = flag.value(typed[flag.field])
                check = checks.get(flag.field)
                values[flag.field] = value if check is None else check.plain(flag.name, value)
            record = self._kind(**values)
        except BadRequest as error:
            if not error.option:
                raise
            raise BadRequest(self._name_of(error.option) + str(error).removeprefix(error.option)) from error
        for name, fault in faults(record):
            raise BadRequest(f"--{name.replace('_', '-')} {fault}.")
        return record

    def _name_of(self, field: str) -> str:
        return {flag.field: flag.name for flag in self.flags}[field]

    def _flags(self) -> Iterator[_Flag]:
        hints = get_type_hints(self._kind, include_extras=True)
        for each in fields(self._kind):
            option = _option_of(each.name, hints[each.name])
            if option is None or (self._names is not None and each.name not in self._names):
                continue
            here = self._here.get(each.name, Here(each.name))
            kind = get_args(hints[each.name])[0] if here.read is None else _argument_of(here.read)
            default = each.default if here.default is _SAME else here.default
            if default is MISSING:
                default = inspect.Parameter.empty
            name = option.metavar if isinstance(option, ArgumentInfo) else option.default
            assert isinstance(name, str), "Typer keeps the first name of an option there"
            name, _, _ = name.partition("/")
            yield _Flag(each.name, name, Annotated[kind, option], default, here.read)


def _option_of(field: str, hint: Any) -> OptionInfo | ArgumentInfo | None:
    """What Typer is told of a field; None where the command line has no words for it."""
    for each in get_args(hint)[1:]:
        if isinstance(each, (OptionInfo, ArgumentInfo)):
            return each
    meaning = meaning_of(hint)
    if meaning is None or not meaning.help:
        return None
    names = [meaning.flag or f"--{field.replace('_', '-')}", *([meaning.short] if meaning.short else [])]
    option: OptionInfo = typer.Option(*names, help=meaning.help, metavar=meaning.metavar, rich_help_panel=meaning.panel)
    return option


def _argument_of(read: Callable[[Any], Any]) -> Any:
    return next(iter(get_type_hints(read).values()))
