"""The way round the ring as legs: what a token, a chunk of a prompt, or a recovery costs, device by device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from shardnet.errors import BadConfiguration
from shardnet.plan import StagePlan
from shardnet.planner.chunks import Host, StageTimes, chunks_of, stage_times, units_read
from shardnet.planner.problem import Device, Problem
from shardnet.policy.rebalance import Move
from shardnet.simulator.engine import Leg


class Roads:
    """How payloads travel: routes are chosen by the links' times as they were seen, legs take the profiled times.

    (What slows a link down in a run is known to the engine, not here.)
    """

    def __init__(self, problem: Problem, seen: Problem | None = None) -> None:
        self._profiled = {(link.source, link.target): link for link in problem.links}
        self._routes = (seen or problem).routes

    def legs(self, source: str, target: str, num_bytes: float, label: str) -> list[Leg]:
        """A payload over the fastest route, relay by relay; nothing on one device."""
        links = self._routes.links(source, target, num_bytes)
        if links is None:
            raise BadConfiguration(f"There is no way from {source!r} to {target!r}: add a link.")
        legs = []
        for link in links:
            seconds = self._profiled[link.source, link.target].seconds(num_bytes)
            legs.append(Leg((link.source, link.target), seconds, label, 0, num_bytes))
        return legs


def decode_legs(problem: Problem, stages: Sequence[StagePlan], roads: Roads | None = None) -> list[Leg]:
    """One lap of one session, the way back included."""
    roads = roads or Roads(problem)
    legs: list[Leg] = []
    for index, stage in enumerate(stages):
        device = _device(problem, stage)
        seconds = sum(device.unit_seconds[stage.first_unit : stage.last_unit + 1])
        legs.append(Leg((stage.device,), seconds, f"stage {index} decode"))
        if index + 1 < len(stages):
            sent = problem.units[stage.last_unit].output_bytes
            legs += roads.legs(stage.device, stages[index + 1].device, sent, "hidden state")
    legs += roads.legs(stages[-1].device, stages[0].device, problem.return_bytes, "token")
    return [replace(leg, position=position) for position, leg in enumerate(legs)]


def visited_twice(legs: Sequence[Leg]) -> list[str]:
    """Devices and links that a lap uses more than once: there the closed formula of the rate is only a bound."""
    used = Counter(leg.resource for leg in legs)
    return [" to ".join(resource) for resource, times in used.items() if times > 1]


def prefill_legs(
    problem: Problem, stages: Sequence[StagePlan], roads: Roads, tokens: int, is_last: bool, profiled_tokens: int
) -> list[Leg]:
    """One chunk of a prompt. Only the last one goes through the head and returns a token.

    Args:
        profiled_tokens: of a chunk of which the problem says what each token takes.
    """
    legs: list[Leg] = []
    last_unit = problem.num_units - 1 if is_last else max(0, problem.num_units - 2)
    for index, stage in enumerate(stages):
        if stage.first_unit > last_unit:
            break
        device = _device(problem, stage)
        if index:
            sent = problem.units[stage.first_unit - 1].output_bytes * tokens
            legs += roads.legs(stages[index - 1].device, stage.device, sent, f"{tokens} hidden states")
        units = range(stage.first_unit, min(stage.last_unit, last_unit) + 1)
        seconds = sum(prefill_seconds(problem, device, unit, tokens, profiled_tokens) for unit in units)
        legs.append(Leg((stage.device,), seconds, f"stage {index} prefill", tokens))
    if is_last:
        legs += roads.legs(stages[-1].device, stages[0].device, problem.return_bytes, "token")
    return legs


def prefill_seconds(problem: Problem, device: Device, unit: int, tokens: int, profiled_tokens: int = 1) -> float:
    """Of one unit for a chunk; the head computes the last token only. Token by token where no prefill was profiled.

    Args:
        profiled_tokens: as in `prefill_legs`; the same for a token of any chunk where it is 1.
    """
    if unit == problem.num_units - 1 and unit > 0:
        return device.unit_seconds[unit]
    return _chunk_times(device, unit, profiled_tokens).seconds(tokens)


def prompt_chunks(
    problem: Problem, stages: Sequence[StagePlan], tokens: int, most_tokens: int, profiled_tokens: int
) -> list[int]:
    """The chunks of a prompt that has the ring to itself; see `planner.chunks`."""
    times = []
    for stage in stages:
        device = _device(problem, stage)
        units = units_read(stage.first_unit, stage.last_unit, problem.num_units)
        each = [_chunk_times(device, unit, profiled_tokens) for unit in units]
        times.append(StageTimes(sum(one.fixed_s for one in each), sum(one.token_s for one in each)))
    return chunks_of(tokens, times, most_tokens, [Host(stage.device) for stage in stages])


def _chunk_times(device: Device, unit: int, profiled_tokens: int) -> StageTimes:
    one_s = device.unit_seconds[unit]
    prefill = device.prefill_unit_seconds
    return stage_times(one_s, one_s if prefill is None else prefill[unit], profiled_tokens)


def recovery_legs(
    problem: Problem,
    stages: Sequence[StagePlan],
    roads: Roads,
    moved: Sequence[Move],
    lacking: Callable[[Move], int],
) -> list[Leg]:
    """What one session needs before it can go on with moved units.

    A living owner sends of the unit's KV cache what is lacking. Where nobody living has it, the stage before sends its
    log of hidden states again, and the new owner computes the unit's cache from them.

    Args:
        lacking: tokens of the session that the new owner has not.
    """
    legs: list[Leg] = []
    first_of = {stage.first_unit: stages[index - 1].device for index, stage in enumerate(stages) if index}
    logged_from: set[int] = set()
    for move in moved:
        unit, tokens = problem.units[move.unit], lacking(move)
        if move.source is not None:
            legs += roads.legs(move.source, move.target, unit.kv_bytes_per_token * tokens, "KV cache")
            continue
        if move.unit in first_of and move.unit not in logged_from:
            logged_from.add(move.unit)
            sent = problem.units[move.unit - 1].output_bytes * tokens
            legs += roads.legs(first_of[move.unit], move.target, sent, "log of hidden states")
        device = problem.devices[problem.index[move.target]]
        if move.unit < problem.num_units - 1:
            seconds = prefill_seconds(problem, device, move.unit, tokens)
            legs.append(Leg((move.target,), seconds, "recompute", tokens))
    return legs


def copy_seconds(problem: Problem, roads: Roads, moved: Sequence[Move], tokens: int) -> float:
    """Until so many tokens of caches are copied, from each owner to each new one at the same time."""
    sizes: Counter[tuple[str, str]] = Counter()
    for move in moved:
        if move.source is not None:
            sizes[move.source, move.target] += round(problem.units[move.unit].kv_bytes_per_token * tokens)
    ways = (roads.legs(source, target, size, "KV cache") for (source, target), size in sizes.items())
    return max((sum(leg.seconds for leg in legs) for legs in ways), default=0.0)


def _device(problem: Problem, stage: StagePlan) -> Device:
    return problem.devices[problem.index[stage.device]]
