"""The planner's problem as a mixed-integer programme, solved by HiGHS: a rival that knows nothing of `exact`.

x[u, d] places unit u, y[u, d, e] says that its output goes from d to e, the last unit's to the first one's device. The
flows between consecutive units agree with x, so that only memory and limits keep the programme from being integral.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from tight_problems import Case

from shardnet.planner.costs import broken_limit, evaluate
from shardnet.planner.tables import Floats, Tables, stages_of

Row = tuple[list[tuple[int, float]], float, float]
"""Coefficients by column, least, most."""


@dataclass(frozen=True)
class Solved:
    """What the solver found: the device of each unit (None where it found no plan), and how far it got."""

    owners: list[int] | None
    bound: float
    status: str
    processor_s: float


class Programme:
    """Columns and rows of one problem."""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.costs, self.whole = tables, [], []
        self.rows: list[Row] = []
        allowed = tables.memory[:, None] <= tables.capacity * (1 + 1e-9)
        elsewhere = np.arange(tables.num_devices) != tables.source
        for u, pinned in ((0, tables.problem.pin_embedding), (-1, tables.problem.pin_head)):
            allowed[u, elsewhere] &= not pinned
        self.x = {(u, d): self._column(True) for u, d in np.argwhere(allowed).tolist()}
        self.y = {}
        for u in range(tables.num_units):
            after = (u + 1) % tables.num_units
            open_ = (np.isfinite(tables.hop(u)) | np.eye(tables.num_devices, dtype=bool)) & allowed[u][:, None]
            for d, e in np.argwhere(open_ & allowed[after]).tolist():
                self.y[u, d, e] = self._column(False)
        self._place()
        self._limit_memory()
        self._limit_batteries()

    def _column(self, whole: bool) -> int:
        self.whole.append(whole)
        return len(self.whole) - 1

    def _place(self) -> None:
        num_units = self.tables.num_units
        out: dict[tuple[int, int], list[tuple[int, float]]] = {key: [] for key in self.x}
        into: dict[tuple[int, int], list[tuple[int, float]]] = {key: [] for key in self.x}
        for (u, d, e), column in self.y.items():
            out[u, d].append((column, 1.0))
            into[(u + 1) % num_units, e].append((column, 1.0))
        for u in range(num_units):
            self.rows.append(([(column, 1.0) for (v, _), column in self.x.items() if v == u], 1, 1))
        for key, column in self.x.items():
            self.rows += [([*flows, (column, -1.0)], 0, 0) for flows in (out[key], into[key])]

    def _limit_memory(self) -> None:
        tables = self.tables
        for d in range(tables.num_devices):
            size = max(tables.capacity[d], 1e-9)
            held = [(column, tables.memory[u] / size) for (u, e), column in self.x.items() if e == d]
            self.rows.append((held, -np.inf, 1))

    def _limit_batteries(self) -> None:
        problem, tables = self.tables.problem, self.tables
        tokens = problem.context_tokens * problem.sessions
        for d, device in enumerate(problem.devices):
            if device.battery_j is None or not tokens:
                continue
            most = device.battery_j / tokens
            used = {
                column: tables.seconds[u, d] * (device.active_w or 0.0) for (u, e), column in self.x.items() if e == d
            }
            for (u, a, b), column in self.y.items():
                used[column] = self._radio(u, a, b, device.name) * device.radio_j_per_byte
            self.rows.append(([(column, joules / most) for column, joules in used.items() if joules], -np.inf, 1))

    def _radio(self, u: int, a: int, b: int, name: str) -> float:
        """Bytes that cross the device's radio when the output of u goes from a to b."""
        crossed = sum((link.source == name) + (link.target == name) for link in self.links(u, a, b))
        return crossed * float(self.tables.payload_bytes[self.tables.payload[u]])

    def links(self, u: int, a: int, b: int) -> Any:
        names = [self.tables.problem.devices[d].name for d in (a, b)]
        return self.tables.problem.routes.links(*names, float(self.tables.payload_bytes[self.tables.payload[u]])) or ()

    def amounts(self, unit: Floats, hop: Floats) -> list[tuple[int, float]]:
        """An amount per unit [u, d] and hop [k, d, e], by column."""
        kinds = self.tables.payload
        placed = [(column, float(unit[u, d])) for (u, d), column in self.x.items()]
        return placed + [(column, float(hop[kinds[u], d, e])) for (u, d, e), column in self.y.items() if d != e]

    def limit(self, amounts: list[tuple[int, float]], most: float) -> None:
        self.rows.append(([(column, value / most) for column, value in amounts if value], -np.inf, 1 + 1e-9))

    def beat(self, in_flight: int) -> list[tuple[int, float]]:
        """A column for the beat, which no device, no link and no session's share of the lap exceeds."""
        tables, column = self.tables, self._column(False)
        lap = self.amounts(tables.seconds, tables.hop_s)
        uses: dict[Any, list[tuple[int, float]]] = {"lap": [(each, value / in_flight) for each, value in lap]}
        for (u, d), each in self.x.items():
            uses.setdefault(d, []).append((each, float(tables.seconds[u, d])))
        for (u, a, b), each in self.y.items():
            for link in self.links(u, a, b):
                seconds = link.seconds(float(tables.payload_bytes[tables.payload[u]]))
                uses.setdefault((link.source, link.target), []).append((each, seconds))
        scale = float(tables.seconds.mean())
        for use in uses.values():
            self.rows.append(([*[(each, value / scale) for each, value in use], (column, -1.0)], -np.inf, 0))
        return [(column, scale)]


def solve(programme: Programme, objective: list[tuple[int, float]], seconds: float) -> Solved:
    """The best that HiGHS finds in so many seconds of processor time on one thread."""
    import highspy

    solver = highspy.Highs()
    options = {"output_flag": False, "threads": 1, "mip_rel_gap": 1e-7, "mip_abs_gap": 0.0}
    for key, value in {**options, "time_limit": seconds * 20}.items():
        solver.setOptionValue(key, value)
    scale = 1 / max(np.median([value for _, value in objective if value > 0] or [1.0]), 1e-300)
    solver.passModel(_model(highspy, programme, [(column, value * scale) for column, value in objective]))
    began = time.process_time()

    def interrupt(event: Any) -> None:
        if time.process_time() - began > seconds:
            event.interrupt()

    for each in (solver.cbMipInterrupt, solver.cbSimplexInterrupt, solver.cbIpmInterrupt):
        each.subscribe(interrupt)
    solver.run()
    info, values = solver.getInfo(), np.array(solver.getSolution().col_value)
    status = solver.modelStatusToString(solver.getModelStatus())
    owners = _owners(programme, values) if info.primal_solution_status == 2 else None
    return Solved(owners, info.mip_dual_bound / scale, status, time.process_time() - began)


def _owners(programme: Programme, values: Floats) -> list[int]:
    placed = [
        max((values[c], d) for (v, d), c in programme.x.items() if v == u) for u in range(programme.tables.num_units)
    ]
    return [d for _, d in placed]


def _model(highspy: Any, programme: Programme, objective: list[tuple[int, float]]) -> Any:
    model, num = highspy.HighsLp(), len(programme.whole)
    costs = np.zeros(num)
    for column, value in objective:
        costs[column] = value
    model.num_col_, model.num_row_ = num, len(programme.rows)
    model.col_cost_, model.col_lower_ = costs, np.zeros(num)
    flows = set(programme.x.values()) | set(programme.y.values())
    model.col_upper_ = np.array([1.0 if column in flows else np.inf for column in range(num)])
    kinds = highspy.HighsVarType
    model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in programme.whole]
    model.row_lower_ = np.array([float(least) for _, least, _ in programme.rows])
    model.row_upper_ = np.array([float(most) for _, _, most in programme.rows])
    matrix = model.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.cumsum([0, *(len(row) for row, _, _ in programme.rows)])
    matrix.index_ = np.array([column for row, _, _ in programme.rows for column, _ in row])
    matrix.value_ = np.array([float(value) for row, _, _ in programme.rows for _, value in row])
    return model


def record(case: Case, seconds: float) -> dict[str, Any]:
    """One row of the record: what the solver finds in so many seconds."""
    tables, limit_s = Tables(case.problem), None
    told: dict[str, Any] = {"number": case.number, "objective": case.objective, "in_flight": case.in_flight}
    if case.lap_limit_share is not None:
        programme = Programme(tables)
        first = solve(programme, programme.amounts(tables.seconds, tables.hop_s), seconds)
        if first.owners is not None:
            limit_s = evaluate(case.problem, stages_of(case.problem, first.owners)).lap_s * case.lap_limit_share
    programme = Programme(tables)
    lap = programme.amounts(tables.seconds, tables.hop_s)
    objective = lap
    if limit_s is not None:
        programme.limit(lap, limit_s)
    if case.objective == "energy":
        watts = np.array([device.active_w for device in case.problem.devices], dtype=float)
        joules = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
        objective = programme.amounts(tables.seconds * watts, joules)
    if case.objective == "throughput":
        objective = programme.beat(case.in_flight)
    found = solve(programme, objective, seconds)
    told |= {
        "lap_limit_s": limit_s,
        "bound": found.bound,
        "status": found.status,
        "seconds": round(found.processor_s, 2),
    }
    if found.owners is not None:
        stages = stages_of(case.problem, found.owners)
        cost = evaluate(case.problem, stages)
        assert broken_limit(case.problem, stages, cost) is None, case.number
        told |= {"lap_s": cost.lap_s, "energy_j": cost.energy_j, "rate_per_s": cost.rate(case.in_flight)}
        told |= {"owners": found.owners}
    return told
