"""Options that are declared once: what becomes of a field for Python, for the command line and on the wire."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
import typer

import shardnet
from shardnet.errors import BadRequest
from shardnet.launch.flags import Given, Here, Only, flattened
from shardnet.options import Made, Meaning, Number, OneOf, Options, Whole, takes
from shardnet.session.request import sampling_of
from shardnet.transport.session_messages import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class TeaOptions(Options):
    cups: Annotated[int, Whole(1, 9), Meaning("Cups to make.", short="-c")] = 2
    hours: Annotated[float | None, Number("above 0", 0, above=True), Meaning("It may draw.", flag="--draw")] = None
    kind: Annotated[str, OneOf(("green", "black")), Meaning("green or black.")] = "black"
    sugar: Annotated[tuple[str, ...], Made(tuple), Meaning(about="lumps, each by its name.")] = ()


class Pot:
    @takes(TeaOptions)
    def brew(self, leaves: str, **options: Any) -> TeaOptions:
        """Make tea.

        Args:
            leaves: what is brewed.

        Raises:
            BadRequest: not that.
        """
        return TeaOptions(**options)


def test_a_field_is_a_keyword() -> None:
    assert Pot().brew("assam", cups=3, sugar=["a"]) == TeaOptions(cups=3, sugar=("a",))
    expected = "(self, leaves: 'str', *, cups: 'int' = 2, hours: 'float | None' = None, kind: 'str' = 'black', "
    assert str(inspect.signature(Pot.brew)) == expected + "sugar: 'tuple[str, ...]' = ()) -> 'TeaOptions'"
    with pytest.raises(TypeError, match="'lemon'"):
        Pot().brew("assam", lemon=1)  # type: ignore[call-arg]


def test_a_record_is_handed_on_as_keywords() -> None:
    options = TeaOptions(cups=3, hours=0.5)
    assert Pot().brew("assam", **options) == options


def test_the_docstring_says_what_a_field_means() -> None:
    text = inspect.getdoc(Pot.brew) or ""
    assert "    leaves: what is brewed.\n    cups: cups to make.\n    hours: it may draw.\n" in text
    assert "    sugar: lumps, each by its name.\n\nRaises:\n" in text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cups": 0}, "cups must be 1 or more, but is 0."),
        ({"cups": 10}, "cups must be at most 9, but is 10."),
        ({"cups": 1.5}, "cups must be a whole number, but is 1.5."),
        ({"cups": None}, "cups must be a whole number, but is None."),
        ({"hours": 0}, "hours must be above 0, but is 0.0."),
        ({"hours": float("inf")}, "hours must be above 0, but is inf."),
        ({"kind": "red"}, "kind must be one of green, black, but is 'red'."),
    ],
)
def test_what_is_impossible_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        TeaOptions(**given)
    assert str(refused.value) == sentence


def test_a_field_is_an_option_of_the_command_line() -> None:
    made: list[TeaOptions] = []

    def brew(
        tea: Annotated[TeaOptions, Only(("cups", "hours", "kind")), Here("kind", default="G", read=_kind_of)],
    ) -> None:
        made.append(tea)

    app = typer.Typer()
    app.command()(flattened(brew))
    command = typer.main.get_command(app)

    def run(*arguments: str) -> TeaOptions:
        command.main(list(arguments), standalone_mode=False)
        return made[-1]

    assert run() == TeaOptions(kind="green")
    assert run("-c", "4", "--draw", "0.5", "--kind", "B") == TeaOptions(cups=4, hours=0.5)
    with pytest.raises(BadRequest, match=r"^--draw must be above 0, but is -1.0.$"):
        run("--draw", "-1")
    with pytest.raises(BadRequest, match=r"^--cups must be at most 9, but is 10.$"):
        run("--cups", "10")
    with pytest.raises(Exception, match="No such option: --sugar"):
        run("--sugar", "1")


def test_a_command_can_know_what_was_typed() -> None:
    """What is typed with the default's own value is not left out."""
    made: list[Given] = []

    def brew(tea: Annotated[TeaOptions, Only(("cups", "hours"))], given: Given) -> None:
        made.append(given)

    app = typer.Typer()
    app.command()(flattened(brew))
    command = typer.main.get_command(app)
    command.main(["-c", str(TeaOptions().cups)], standalone_mode=False)
    command.main([], standalone_mode=False)
    assert made == [{"cups"}, set()]


def _kind_of(letter: str) -> str:
    return {"G": "green", "B": "black"}[letter]


def test_the_wire_has_the_defaults_of_the_record() -> None:
    assert sampling_of(shardnet.GenerationOptions()) == SamplingOptions()


@pytest.mark.parametrize("record", [shardnet.GenerationOptions, shardnet.LoadOptions])
def test_every_option_of_a_model_says_what_it_means(record: Any) -> None:
    keywords = inspect.signature(
        shardnet.Model.stream if record is shardnet.GenerationOptions else shardnet.Cluster.load
    ).parameters
    assert [*keywords][2:] == [each.name for each in fields(record)]
