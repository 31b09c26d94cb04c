"""The solver HiGHS, asked through highspy: the best assignment of a programme, and what it has proven by then.

It runs in one thread, with a fixed seed, and asks again and again whether its time is over: in this thread, or in
another one beside a search of our own, for it holds no lock of Python's. Costs are scaled
to about COST, where its absolute tolerances (1e-6) are a relative 1e-10; its limits are wider by 1e-6 than ours, which
makes bounds lower and proofs no less true. A plan that we know goes in as a start, not as a cutoff: then
*infeasible* always means that there is no plan, and HiGHS uses it to find better ones.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.exact.programme import Programme
from shardnet.planner.tables import Floats

COST = 1e4
CLOSED, OPEN = 5e-10, 1e-6
"""What is taken off a bound, relative: where HiGHS ended with a proof, and where its time was over."""
ABSOLUTE = 1e-6
"""What is taken off a proof at least, in scaled costs: HiGHS closes nodes that come so near to its best plan."""


@dataclass(frozen=True)
class Answer:
    """What HiGHS found.

    Attributes:
        owners: the device of each unit; None where it found no plan.
        bound: no plan costs less; inf where there is proven to be none.
        status: in words of HiGHS.
    """

    owners: list[int] | None
    bound: float
    status: str


def installed() -> bool:
    """Whether highspy is."""
    return importlib.util.find_spec("highspy") is not None


class Beside:
    """HiGHS at work in a thread beside this one, for so many seconds of that thread's processor time."""

    def __init__(self, programme: Programme, seconds: float, start: list[int] | None = None, gap: float = 0.0) -> None:
        self._ended = threading.Event()
        self._answer: Answer | None = None
        self._raised: BaseException | None = None
        self._newest: list[int] | None = None
        self._programme, self._seconds, self._start, self._gap = programme, seconds, start, gap
        self._thread = threading.Thread(target=self._run, name="highs", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        budget = Budget(self._seconds)  # here: processor time is counted by thread
        try:
            self._answer = solve(
                self._programme,
                budget,
                self._start,
                self._gap,
                ended=self._ended.is_set,
                found=self._take,
            )
        except BaseException as error:
            self._raised = error

    def _take(self, owners: list[int]) -> None:
        self._newest = owners

    def found(self) -> list[int] | None:
        """The best plan that it found since it was asked last; None where there is none."""
        newest, self._newest = self._newest, None
        return newest

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> Answer:
        """Stop it, if it has not ended, and say what it knows."""
        self._ended.set()
        self._thread.join()
        if self._raised is not None:
            raise self._raised
        assert self._answer is not None
        return self._answer


def solve(
    programme: Programme,
    budget: Budget,
    start: list[int] | None = None,
    gap: float = 0.0,
    *,
    ended: Callable[[], bool] | None = None,
    found: Callable[[list[int]], None] | None = None,
) -> Answer:
    """Seek the plan of least cost.

    Args:
        start: the device of each unit in a plan that is known.
        gap: relative; a plan that is proven to be so near the best will do.
        ended: whether it is to stop before its time is over.
        found: is told of each better plan.
    """
    import highspy

    solver, known = _silent(highspy), None if start is None else programme.values(start)
    fixed = {"threads": 1, "random_seed": 1, "mip_rel_gap": gap, "mip_abs_gap": 0.0}
    for key, value in fixed.items():
        solver.setOptionValue(key, value)
    scale = _scale(programme, known)
    solver.passModel(_model(highspy, programme, scale))
    if known is not None:
        given = highspy.HighsSolution()
        given.col_value = known
        solver.setSolution(given)
    if found is not None:
        solver.cbMipImprovingSolution.subscribe(
            lambda event: found(programme.owners(np.array(event.data_out.mip_solution)))
        )
    _run(solver, lambda: budget.spent or (ended is not None and ended()))
    status, info = solver.getModelStatus(), solver.getInfo()
    return Answer(
        programme.owners(np.array(solver.getSolution().col_value)) if info.primal_solution_status == 2 else None,
        _bound(highspy, status, info.mip_dual_bound, known is not None) / scale,
        solver.modelStatusToString(status),
    )


def _silent(highspy: Any) -> Any:
    """A solver that prints nothing; the plain one greets when it is made."""

    class Silent(highspy.Highs):
        def enableCallbacks(self) -> None:
            self.silent()
            super().enableCallbacks()

    return Silent()


def _run(solver: Any, ended: Callable[[], bool]) -> None:
    """Let it run until it ends or is to end; what is raised meanwhile (Ctrl-C) is raised after it."""
    raised: list[BaseException] = []

    def ask(event: Any) -> None:
        try:
            late = ended()
        except BaseException as error:
            raised.append(error)
            late = True
        if late:
            event.interrupt()

    for each in (solver.cbMipInterrupt, solver.cbSimplexInterrupt, solver.cbIpmInterrupt):
        each.subscribe(ask)
    solver.run()
    if raised:
        raise raised[0]


def _bound(highspy: Any, status: Any, bound: float, known: bool) -> float:
    if status == highspy.HighsModelStatus.kInfeasible:
        return -math.inf if known else math.inf  # where a plan is known it is not believed
    if not math.isfinite(bound):
        return -math.inf
    if status == highspy.HighsModelStatus.kOptimal:
        return bound - max(abs(bound) * CLOSED, ABSOLUTE)
    return bound - abs(bound) * OPEN


def _scale(programme: Programme, known: Floats | None) -> float:
    """What costs are multiplied by."""
    values = [value for _, value in programme.costs if value > 0]
    if known is not None:
        cost = sum(value * known[column] for column, value in programme.costs)
    else:
        cost = float(np.median(values)) * programme.tables.num_units if values else 0.0
    return COST / cost if cost > 1e-200 else 1.0


def _model(highspy: Any, programme: Programme, scale: float) -> Any:
    model, num = highspy.HighsLp(), len(programme.whole)
    costs = np.zeros(num)
    for column, value in programme.costs:
        costs[column] = value * scale
    model.num_col_, model.num_row_ = num, len(programme.rows)
    model.col_cost_, model.col_lower_ = costs, np.zeros(num)
    model.col_upper_ = np.where(np.arange(num) < programme.flows, 1.0, np.inf)
    kinds, rows = highspy.HighsVarType, programme.rows
    model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in programme.whole]
    model.row_lower_ = np.array([float(least) for _, least, _ in rows])
    model.row_upper_ = np.array([float(most) for _, _, most in rows])
    cells = [cell for row, _, _ in rows for cell in row]
    matrix = model.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.cumsum([0, *(len(row) for row, _, _ in rows)])
    matrix.index_ = np.array([column for column, _ in cells])
    matrix.value_ = np.array([float(value) for _, value in cells])
    return model
