"""What limits a plan, in words, and what a change of the cluster would give: each answer is a plan made anew. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from shardnet.errors import DoesNotFit
from shardnet.foreign.bounds import BYTES, BYTES_PER_S, SECONDS
from shardnet.foreign.quoting import counted
from shardnet.plan import Link, Plan
from shardnet.planner.costs import Cost, evaluate, gain, gigabytes
from shardnet.planner.problem import MAX_DEVICES, Problem
from shardnet.progress import Progress, silent

Replan = Callable[[Problem], Plan]
NEARLY_FULL = 0.9


@dataclass(frozen=True)
class Answer:
    """What one change would give."""

    change: str
    plan: Plan | None
    """None where nothing fits even then."""
    gain: float
    """Share by which the objective improves; negative where it gets worse."""


def limits(problem: Problem, plan: Plan, in_flight: int = 1) -> list[str]:
    """Sentences: where a lap's time goes, what is busiest, whose memory is full."""
    cost = evaluate(problem, plan.stages)
    compute_s = sum(cost.device_busy_s.values())
    sentences = []
    if cost.lap_s > 0:
        share = compute_s / cost.lap_s
        sentences.append(
            f"A lap takes {cost.lap_s * 1e3:.4g} ms: {share:.0%} of it is compute, {1 - share:.0%} is on the way."
        )
        sentences.append(
            f"The busiest part is {cost.bottleneck}, {cost.bottleneck_s * 1e3:.4g} ms of each lap: "
            f"{_filled(cost, in_flight)}"
        )
    for name, used in cost.device_memory_bytes.items():
        offered = problem.devices[problem.index[name]].memory_bytes
        if used > NEARLY_FULL * offered:
            sentences.append(f"The memory of {name} is full: {gigabytes(used)} of {gigabytes(offered)}.")
    fastest = problem.devices[problem.index[_fastest(problem)]]
    whole = sum(problem.unit_memory_bytes)
    if whole > fastest.memory_bytes:
        sentences.append(
            f"The fastest device, {fastest.name}, cannot hold the whole model: it offers "
            f"{gigabytes(fastest.memory_bytes)} of the {gigabytes(whole)} that are needed."
        )
    return sentences


def what_ifs(
    problem: Problem,
    plan: Plan,
    replan: Replan,
    in_flight: int = 1,
    fewer_bits: tuple[str, Problem] | None = None,
    progress: Progress = silent,
) -> list[Answer]:
    """Plan again with one more device, a faster link, more memory, fewer bits, a shorter context.

    Args:
        replan: makes the best plan of a problem, for `plan.objective`.
        fewer_bits: what to call it, and the problem of the same model with smaller weights.
    """
    changes: list[tuple[str, Problem]] = []
    cost = evaluate(problem, plan.stages)
    fastest = _fastest(problem)
    if problem.num_devices < MAX_DEVICES:
        changes.append((f"another {fastest}", with_twin(problem, fastest)))
    for pair in _link_pairs(problem, cost, fastest):
        changes.append((f"ten times the bandwidth between {pair[0]} and {pair[1]}", _faster(problem, pair, 10, 1)))
        changes.append((f"half the latency between {pair[0]} and {pair[1]}", _faster(problem, pair, 1, 0.5)))
    full = _nearly_full(problem, cost)
    if full:
        best = min(full, key=lambda name: sum(problem.devices[problem.index[name]].unit_seconds))
        changes.append((f"twice the memory on {best}", _more_memory(problem, best)))
    if fewer_bits is not None:
        changes.append(fewer_bits)
    if full and problem.context_tokens > 1 and any(unit.kv_bytes_per_token for unit in problem.units):
        half = problem.context_tokens // 2
        changes.append((f"a context of {counted(half, 'tokens')}", replace(problem, context_tokens=half)))
    now = cost.value(plan.objective, in_flight)
    answers = []
    for number, (change, changed) in enumerate(changes):
        progress("planning again with each change", number, len(changes))
        answers.append(_answer(change, changed, plan.objective, now, in_flight, replan))
    progress("planning again with each change", len(changes), len(changes))
    return answers


def _nearly_full(problem: Problem, cost: Cost) -> list[str]:
    """The devices that have hardly any memory left."""
    used = cost.device_memory_bytes
    return [name for name in used if used[name] > NEARLY_FULL * problem.devices[problem.index[name]].memory_bytes]


def with_twin(problem: Problem, name: str) -> Problem:
    """The problem with a second device like `name`, on links like its own (5 ms and 100 Mbit/s where it has none)."""
    twin = _free_name(f"{name[:150]}-twin", problem)
    device = replace(problem.devices[problem.index[name]], name=twin)
    links = list(problem.links)
    for link in problem.links:
        if link.source == name:
            links.append(replace(link, source=twin))
        elif link.target == name:
            links.append(replace(link, target=twin))
    leaving = [link for link in problem.links if link.source == name]
    between = Link(name, twin, 0.005, 12.5e6)
    if leaving:
        best = max(leaving, key=lambda link: link.bytes_per_s)
        between = replace(best, target=twin)
    links += [between, replace(between, source=twin, target=name)]
    return replace(problem, devices=(*problem.devices, device), links=tuple(links))


def _free_name(wanted: str, problem: Problem) -> str:
    names = (f"{wanted}{n or ''}" for n in count())
    return next(each for each in names if each not in problem.index)


def halved_weights(problem: Problem) -> Problem:
    """The problem with half the weight bytes. Decode reads weights, so its times are halved too: a rough estimate."""
    return replace(
        problem,
        units=tuple(replace(unit, weight_bytes=BYTES.clamped(unit.weight_bytes / 2)) for unit in problem.units),
        devices=tuple(
            replace(device, unit_seconds=tuple(SECONDS.clamped(seconds / 2) for seconds in device.unit_seconds))
            for device in problem.devices
        ),
    )


def _filled(cost: Cost, in_flight: int) -> str:
    needed = cost.lap_s / cost.bottleneck_s
    if in_flight + 1e-9 >= needed:
        return f"with {in_flight} in flight it is never idle, and only making it faster gives more tokens per second."
    filled_by = math.ceil(needed - 1e-9)
    return f"with {in_flight} in flight it is busy {in_flight / needed:.0%} of the time; {filled_by} would fill it."


def _answer(change: str, problem: Problem, objective: str, now: float, in_flight: int, replan: Replan) -> Answer:
    try:
        plan = replan(problem)
    except DoesNotFit:
        return Answer(change, None, 0.0)
    then = evaluate(problem, plan.stages).value(objective, in_flight)
    return Answer(change, plan, gain(now, then))


def _fastest(problem: Problem) -> str:
    """The device that would run the whole model in the least time; relays do not count."""
    able = [device for device in problem.devices if device.memory_bytes > 0] or list(problem.devices)
    return min(able, key=lambda device: sum(device.unit_seconds)).name


def _link_pairs(problem: Problem, cost: Cost, fastest: str) -> list[tuple[str, str]]:
    """The pair of devices whose links the plan uses most; and the source and the fastest device."""
    busy: dict[tuple[str, str], float] = {}
    for (source, target), seconds in cost.link_busy_s.items():
        pair = (min(source, target), max(source, target))
        busy[pair] = busy.get(pair, 0.0) + seconds
    pairs = [max(busy, key=lambda pair: busy[pair])] if busy else []
    ends = {problem.source, fastest}
    direct = any({link.source, link.target} == ends for link in problem.links)
    if direct and len(ends) == 2 and not any(set(pair) == ends for pair in pairs):
        pairs.append((problem.source, fastest))
    return pairs


def _faster(problem: Problem, pair: tuple[str, str], bandwidth: float, latency: float) -> Problem:
    links = tuple(
        replace(
            link,
            bytes_per_s=BYTES_PER_S.clamped(link.bytes_per_s * bandwidth),
            latency_s=SECONDS.clamped(link.latency_s * latency),
        )
        if {link.source, link.target} == set(pair)
        else link
        for link in problem.links
    )
    return replace(problem, links=links)


def _more_memory(problem: Problem, name: str) -> Problem:
    devices = tuple(
        replace(device, memory_bytes=BYTES.clamped(device.memory_bytes * 2)) if device.name == name else device
        for device in problem.devices
    )
    return replace(problem, devices=devices)
