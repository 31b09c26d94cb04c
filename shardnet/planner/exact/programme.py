"""The planner's problem as a mixed-integer programme: a layered network with knapsacks. Pure; `highs` solves it.

x[u, d] places unit u, y[u, d, e] says that its output goes from d to e, the last unit's to the first one's device. The
flows between consecutive units agree with x, so that only memory and limits keep the programme from being integral.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shardnet.plan import Link
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.by_class import Target
from shardnet.planner.tables import Floats, Tables

Amounts = list[tuple[int, float]]
"""So much of something for each column."""
Row = tuple[Amounts, float, float]
"""Coefficients by column, least, most."""


class Programme:
    """Columns and rows of one problem.

    Attributes:
        costs: what is to be least; nothing at first, so that any plan will do.
        whole: by column, whether it is 0 or 1 and nothing between.
        x, y: columns by (u, d) and (u, d, e).
    """

    def __init__(self, tables: Tables, roots: Sequence[int], hop_cost: Floats | None = None) -> None:
        """
        Args:
            roots: devices that may hold unit 0.
            hop_cost: [k, d, e] inf for hops that are not allowed; every hop that there is where None.
        """
        self.tables = tables
        self.costs: Amounts = []
        self.whole: list[bool] = []
        self.rows: list[Row] = []
        self._shares: list[Amounts] = []
        """What is busy, over the scale of the beat."""
        self._network(roots, np.isfinite(tables.hop_s if hop_cost is None else hop_cost))
        self._place()
        self._limit_memory()
        self._limit_batteries()

    @classmethod
    def of(cls, tables: Tables, target: Target, roots: Sequence[int]) -> Programme:
        """The programme that has the target's cost and its limits."""
        made = cls(tables, roots, target.hop_cost)
        made.costs = made.amounts(target.unit_cost, target.hop_cost)
        if target.second is not None:
            made.limit(made.amounts(target.second.unit, target.second.hop), target.second.most)
        if np.isfinite(target.busy_limit_s):
            for use in made._busy().values():
                made.limit(use, target.busy_limit_s)
        return made

    def _network(self, roots: Sequence[int], open_hops: Any) -> None:
        tables = self.tables
        allowed = tables.memory[:, None] <= tables.capacity * (1 + ROUNDING)
        each = np.arange(tables.num_devices)
        allowed[0] &= np.isin(each, roots)
        allowed[-1] &= (each == tables.source) | (not tables.problem.pin_head)
        self.x = {(u, d): self._column(True) for u, d in np.argwhere(allowed).tolist()}
        self.y = {}
        for u in range(tables.num_units):
            after = (u + 1) % tables.num_units
            open_ = (open_hops[tables.payload[u]] | np.eye(len(each), dtype=bool)) & allowed[u][:, None]
            for d, e in np.argwhere(open_ & allowed[after]).tolist():
                self.y[u, d, e] = self._column(False)
        self.flows = len(self.whole)
        """Columns of x and y; those after them have no upper bound."""

    def _column(self, whole: bool) -> int:
        self.whole.append(whole)
        return len(self.whole) - 1

    def _place(self) -> None:
        num_units = self.tables.num_units
        out: dict[tuple[int, int], Amounts] = {key: [] for key in self.x}
        into: dict[tuple[int, int], Amounts] = {key: [] for key in self.x}
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
            held = [(column, float(tables.memory[u])) for (u, e), column in self.x.items() if e == d]
            self.limit(held, max(float(tables.capacity[d]), 1e-9))

    def _limit_batteries(self) -> None:
        problem, tables = self.tables.problem, self.tables
        tokens = problem.context_tokens * problem.sessions
        for d, device in enumerate(problem.devices):
            if device.battery_j is None or not tokens:
                continue
            watts = device.active_w or 0.0
            used = {column: tables.seconds[u, d] * watts for (u, e), column in self.x.items() if e == d}
            for (u, a, b), column in self.y.items():
                used[column] = self._radio_bytes(u, a, b, device.name) * device.radio_j_per_byte
            self.limit(list(used.items()), max(device.battery_j / tokens, 1e-300))

    def _radio_bytes(self, u: int, a: int, b: int, name: str) -> float:
        """Bytes that cross the device's radio when the output of u goes from a to b."""
        crossed = sum((link.source == name) + (link.target == name) for link in self._links(u, a, b))
        return crossed * self._bytes(u)

    def _bytes(self, u: int) -> float:
        return float(self.tables.payload_bytes[self.tables.payload[u]])

    def _links(self, u: int, a: int, b: int) -> tuple[Link, ...]:
        devices = self.tables.problem.devices
        return self.tables.problem.routes.links(devices[a].name, devices[b].name, self._bytes(u)) or ()

    def amounts(self, unit: Floats, hop: Floats) -> Amounts:
        """An amount per unit [u, d] and hop [k, d, e], by column."""
        kinds = self.tables.payload
        placed = [(column, float(unit[u, d])) for (u, d), column in self.x.items()]
        return placed + [(column, float(hop[kinds[u], d, e])) for (u, d, e), column in self.y.items() if d != e]

    def limit(self, amounts: Amounts, most: float) -> None:
        """All these amounts together may reach `most`."""
        shares = [(column, value / most) for column, value in amounts if value]
        self.rows.append((shares, -np.inf, 1 + ROUNDING))

    def _busy(self) -> dict[Any, Amounts]:
        """Busy seconds in a lap, of each device and each link."""
        uses: dict[Any, Amounts] = {}
        for (u, d), column in self.x.items():
            uses.setdefault(d, []).append((column, float(self.tables.seconds[u, d])))
        for (u, a, b), column in self.y.items():
            for link in self._links(u, a, b) if a != b else ():
                uses.setdefault((link.source, link.target), []).append((column, link.seconds(self._bytes(u))))
        return uses

    def seek_beat(self, in_flight: int) -> None:
        """Let the cost be the beat, which no device, no link and no session's share of the lap exceeds."""
        tables, column = self.tables, self._column(False)
        lap = self.amounts(tables.seconds, tables.hop_s)
        scale = float(tables.seconds.mean()) or 1.0
        for use in (*self._busy().values(), [(each, value / in_flight) for each, value in lap]):
            self._shares.append([(each, value / scale) for each, value in use if value])
            self.rows.append(([*self._shares[-1], (column, -1.0)], -np.inf, 0))
        self.costs = [(column, scale)]

    def values(self, owners: Sequence[int]) -> Floats | None:
        """The value of each column for the device of each unit; None for what the programme does not allow."""
        values = np.zeros(len(self.whole))
        steps = zip(range(len(owners)), owners, [*owners[1:], owners[0]])
        for u, d, e in steps:
            placed, flow = self.x.get((u, d)), self.y.get((u, d, e))
            if placed is None or flow is None:
                return None
            values[[placed, flow]] = 1.0
        if self._shares:
            values[-1] = max(sum(value * values[column] for column, value in use) for use in self._shares)
        return values

    def owners(self, values: Floats) -> list[int]:
        """The device of each unit."""
        rows = [[(values[c], d) for (v, d), c in self.x.items() if v == u] for u in range(self.tables.num_units)]
        return [max(row)[1] for row in rows]
