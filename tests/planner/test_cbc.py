"""What CBC answers: a solution, that there is none, that it had no time, or nothing that can be used."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pulp
import pytest

from shardnet.errors import DoesNotFit, ShardnetError
from shardnet.planner import plan
from shardnet.planner.problem import Device, Link, Problem, Unit
from shardnet.planner.rules import cbc


def four_units_on_three(memory_bytes: float) -> Problem:
    """Each device holds one unit and most of a second one."""
    units = tuple(Unit(f"u{i}", 1e8, 0, 100.0) for i in range(4))
    devices = tuple(Device(f"d{i}", memory_bytes, (0.01,) * 4) for i in range(3))
    links = tuple(Link(f"d{a}", f"d{b}", 1e-3, 1e6) for a in range(3) for b in range(3) if a != b)
    return Problem(units, devices, links, "d0")


def test_infeasible_in_whole_numbers_does_not_fit() -> None:
    """CBC proved it in 0.01 s ("Integer infeasible"), and it was told as "found no solution within 8.0 s", exit code 1.

    As a linear programme it has a solution: each device takes a unit and a third.
    """
    with pytest.raises(DoesNotFit, match="400 MB in one run per device on 480 MB") as caught:
        plan(four_units_on_three(1.6e8), method="lingualinked")
    assert caught.value.exit_code == 3
    with pytest.raises(DoesNotFit, match="on 300 MB"):
        plan(four_units_on_three(1e8), method="lingualinked")
    assert plan(four_units_on_three(2e8), method="lingualinked").stages


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """CBC replaced by a script of our own; the file it shall write is its last argument."""

    def use(script: str) -> None:
        path = tmp_path / "cbc"
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(pulp, "PULP_CBC_CMD", lambda msg: pulp.COIN_CMD(path=str(path), msg=msg))

    return use


@cbc.without_warnings
def solved(time_limit_s: float = 5.0) -> dict[str, float] | None:
    programme = pulp.LpProblem("small", pulp.LpMinimize)
    x = pulp.LpVariable("x", cat="Binary")
    programme += x
    programme += x >= 1
    return cbc.solve(pulp, programme, time_limit_s)


def test_the_real_one() -> None:
    assert solved() == {"x": 1.0}


def writing(first_line: str) -> str:
    return f'#!/bin/sh\nfor last; do :; done\nprintf "%s\\n" "{first_line}" "      0 X0000000  1  1" > "$last"\n'


@pytest.mark.parametrize(
    ("first_line", "said"),
    [
        ("Optimal - objective value 1.0", {"x": 1.0}),
        ("Stopped on time - objective value 1.0", {"x": 1.0}),
        ("Infeasible - objective value 0.0", None),
        ("Integer infeasible - objective value 0.0", None),
        ("Stopped on time (no integer solution - continuous used) - objective value 0.0", "found no solution within 5"),
        ("Unbounded - objective value 0.0", "unbounded"),
        ("Numerical trouble - objective value 0.0", "did not solve"),
        ("", "cannot be read"),
        ("Numerical trouble", "cannot be read"),
    ],
)
def test_every_status(answers: Any, first_line: str, said: dict[str, float] | str | None) -> None:
    answers(writing(first_line))
    if not isinstance(said, str):
        assert solved() == said
        return
    with pytest.raises(ShardnetError, match=said) as caught:
        solved()
    assert not isinstance(caught.value, DoesNotFit), "not proven"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\nkill -SEGV $$\n", r"was ended by signal 11 \(Segmentation fault\)"),
        ("#!/bin/sh\necho cbc: no licence\nexit 3\n", r"wrote no result \(exit code 3: cbc: no licence\)"),
        ("#!/nowhere/at/all\n", r"cannot be run \(No such file"),
        ("\0", "cannot be run"),
    ],
)
def test_a_solver_that_fails(answers: Any, script: str, said: str) -> None:
    answers(script)
    with pytest.raises(ShardnetError, match=f"The solver CBC {said}.*Use the method exact"):
        solved()


def test_a_solver_that_never_ends(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cbc, "GRACE_S", 0.1)
    answers("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(ShardnetError, match="did not stop"):
        solved(0.1)


def test_no_solver_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PULP_CBC_CMD", "COIN_CMD"):
        missing = pulp.COIN_CMD(path=str(tmp_path / "none"), msg=False)
        monkeypatch.setattr(pulp, name, lambda msg, missing=missing: missing)
    with pytest.raises(ShardnetError, match="PuLP finds none"):
        solved()
