"""What a partial plan uses up, beside memory and busy devices: links, batteries, a second amount. Pure.

Each is a column: an amount per unit and device, an amount per hop, and a most. In large clusters only the second amount
is a column; a complete plan is judged by `costs` in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardnet.planner.exact.by_class import Target
from shardnet.planner.tables import MOST_ROUTED, Floats, Tables


@dataclass(frozen=True)
class Columns:
    """Additive amounts and their limits.

    Attributes:
        before: [u + 1, d, g] amount of units 0..u-1 on a device.
        hop: [k, d, e, g] amount of a hop.
        most: [g]; after: [u, g] more than this cannot be used once unit u is computed.
        second: position of the target's second amount among the columns, or None.
    """

    before: Floats
    hop: Floats
    most: Floats
    after: Floats
    second: int | None


def columns_of(tables: Tables, target: Target) -> Columns:
    """The columns that the problem and the target need."""
    parts: list[tuple[Floats, Floats, float]] = []
    second = None
    if target.second is not None:
        second = 0
        parts.append((target.second.unit, target.second.hop, target.second.most))
    if tables.num_devices <= MOST_ROUTED:
        batteries = [d for d, device in enumerate(tables.problem.devices) if device.battery_j is not None]
        links = _busy_links(tables, target) if np.isfinite(target.busy_limit_s) else []
        parts += [_battery(tables, d) for d in batteries]
        nothing = np.zeros_like(tables.seconds)
        parts += [(nothing, crossing, target.busy_limit_s) for crossing in links]
    return _stacked(tables, parts, second)


def _stacked(tables: Tables, parts: list[tuple[Floats, Floats, float]], second: int | None) -> Columns:
    num_units, num_devices = tables.seconds.shape
    if not parts:
        empty = np.zeros((num_units + 1, num_devices, 0))
        return Columns(empty, np.zeros((*tables.hop_s.shape, 0)), np.zeros(0), empty[:-1, 0], second)
    amounts = np.stack([amount for amount, _, _ in parts], axis=-1)
    before = np.concatenate([np.zeros((1, *amounts.shape[1:])), np.cumsum(amounts, axis=0)])
    hop = np.stack([crossing for _, crossing, _ in parts], axis=-1)
    dearest = np.where(np.isfinite(hop), hop, 0).max(axis=(1, 2))[tables.payload] + amounts.max(axis=1)
    after = np.cumsum(dearest[::-1], axis=0)[::-1] - amounts.max(axis=1)
    return Columns(before, hop, np.array([most for _, _, most in parts]), after, second)


def _battery(tables: Tables, d: int) -> tuple[Floats, Floats, float]:
    """Joules per token of one device: its units, and each byte that it sends, receives or relays."""
    problem = tables.problem
    device = problem.devices[d]
    compute = np.zeros_like(tables.seconds)
    compute[:, d] = tables.seconds[:, d] * (device.active_w or 0.0)
    radio = np.zeros_like(tables.hop_s)
    joules = tables.payload_bytes * device.radio_j_per_byte
    radio[:, d, :] = joules[:, None]
    radio[:, :, d] = joules[:, None]
    for (k, a, b), links in tables.relayed.items():
        ends = sum(device.name in (link.source, link.target) for link in links)
        crossings = sum((link.source == device.name) + (link.target == device.name) for link in links)
        radio[k, a, b] = crossings * joules[k] if ends else 0.0
    radio[:, d, d] = 0.0
    tokens = problem.context_tokens * problem.sessions
    assert device.battery_j is not None
    return compute, radio, device.battery_j / tokens if tokens else np.inf


def _busy_links(tables: Tables, target: Target) -> list[Floats]:
    """Seconds [k, d, e] on each link, for the links that two hops may fill beyond the limit."""
    index = tables.problem.index
    crossings: list[Floats] = []
    by_link: dict[tuple[int, int], list[tuple[int, int, int, float]]] = {}
    for (k, d, e), links in tables.relayed.items():
        for link in links:
            ends = index[link.source], index[link.target]
            by_link.setdefault(ends, []).append((k, d, e, link.seconds(float(tables.payload_bytes[k]))))
    for d, e in np.argwhere(np.isfinite(tables.latency_s)).tolist():
        if d == e:
            continue
        crossing = np.zeros_like(tables.hop_s)
        direct = tables.hop_s[:, d, e] >= tables.direct_s[:, d, e]
        crossing[direct, d, e] = tables.hop_s[direct, d, e]
        for k, a, b, seconds in by_link.get((d, e), ()):
            crossing[k, a, b] = seconds
        crossing[~np.isfinite(target.hop_cost)] = 0.0
        if crossing.max(axis=(1, 2))[tables.payload].sum() > target.busy_limit_s:
            crossings.append(crossing)
    return crossings
