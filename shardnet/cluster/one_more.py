"""What one more device would bring to a cluster, as far as a plan with one that is only described can tell. Pure.

The devices that are there count as they were measured; the one that is not there by a roofline over the numbers of its
class (see `described.estimates`), over a link as the wifi of a home has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shardnet.cluster.placement import LEAST_KV_TOKENS, place, problem_of
from shardnet.cluster.survey import EXPECTED_TOKENS
from shardnet.described.clusters import GIB, DeviceClass
from shardnet.errors import DoesNotFit
from shardnet.plan import DeviceProfile, Link, ModelProfile, Plan, UnitProfile

SIZES_GIB = (1, 2, 3, 4, 6, 8, 12)
"""What a phone may have for models."""
LEAST_GAIN = 0.05
"""By which a token must be faster, to be worth a word; and what a smaller phone may lack to the largest one."""
PLANNING_S = 1.0
LINK_S, LINK_BYTES_PER_S = 3e-3, 200e6 / 8
NAME = "one more"


@dataclass(frozen=True)
class Placed:
    """A model, and the devices that are there for it.

    Args:
        devices: with times where it was placed by measurements, else with their memory alone.
        links: between them, in both directions.
    """

    profile: ModelProfile
    devices: tuple[DeviceProfile, ...]
    links: tuple[Link, ...]
    method: str
    objective: str
    in_flight: int
    context_tokens: int
    kv_memory_bytes: int | None
    private_to: str | None = None


def room_for(placed: Placed, kind: DeviceClass, what: str) -> str:
    """For a model that does not fit: which device would be enough, in a sentence; empty where none of the sizes is.

    Args:
        what: such a device in words: "a phone".
    """
    bare = replace(placed, devices=tuple(_estimated(each, placed, kind) for each in placed.devices))
    for size_gib in SIZES_GIB:
        if _plan(_with_one_more(bare, kind, size_gib)) is not None:
            return f"Predicted: {what} with {size_gib} GiB for models more would hold it."
    return ""


def gain_of(placed: Placed, kind: DeviceClass, what: str) -> str:
    """For a model that is loaded: how long a token takes now, and with such a device, in a sentence; empty where
    devices were not measured."""
    if any(len(each.decode_unit_s) != placed.profile.num_units for each in placed.devices):
        return ""
    now_s = _token_s(_plan(placed))
    best_s = _token_s(_plan(_with_one_more(placed, kind, SIZES_GIB[-1])))
    if now_s is None or best_s is None:
        return ""
    if best_s > now_s * (1 - LEAST_GAIN):
        return f"Predicted: {_ms(now_s)} a token. {what.capitalize()} more would make that no faster."
    sizes_gib = list(SIZES_GIB)
    while len(sizes_gib) > 1:  # more memory is never slower
        half = len(sizes_gib) // 2
        with_s = _token_s(_plan(_with_one_more(placed, kind, sizes_gib[half - 1])))
        is_enough = with_s is not None and with_s <= best_s * (1 + LEAST_GAIN)
        sizes_gib = sizes_gib[:half] if is_enough else sizes_gib[half:]
    best_s = _token_s(_plan(_with_one_more(placed, kind, sizes_gib[0]))) or best_s
    more = f"{what.capitalize()} with {sizes_gib[0]} GiB for models more: {_ms(best_s)}."
    return f"Predicted: {_ms(now_s)} a token. {more}"


def _plan(placed: Placed) -> Plan | None:
    """None where it does not fit."""
    try:
        problem = problem_of(
            placed.profile,
            placed.devices,
            placed.links,
            context_tokens=min(placed.context_tokens, LEAST_KV_TOKENS),
            kv_memory_bytes=placed.kv_memory_bytes,
            private_to=placed.private_to,
        )
        return place(problem, placed.method, placed.objective, placed.in_flight, 1, PLANNING_S)
    except DoesNotFit:
        return None


def _token_s(plan: Plan | None) -> float | None:
    """Seconds of a token: of one conversation, or of all together where the plan is for as many as possible."""
    if plan is None:
        return None
    if plan.objective == "throughput":
        return None if not plan.rate_per_s else 1 / plan.rate_per_s
    return plan.lap_s


def _with_one_more(placed: Placed, kind: DeviceClass, size_gib: float) -> Placed:
    bare = DeviceProfile(NAME, int(size_gib * GIB), is_estimated=True)
    links = [
        Link(*ends, LINK_S, LINK_BYTES_PER_S)
        for each in placed.devices
        for ends in ((NAME, each.name), (each.name, NAME))
    ]
    devices = (*placed.devices, _estimated(bare, placed, kind))
    return replace(placed, devices=devices, links=(*_all_links(placed), *links))


def _all_links(placed: Placed) -> tuple[Link, ...]:
    """Those that were measured; where none were, as for a model that does not fit, such as a wifi has."""
    names = [each.name for each in placed.devices]
    known = {(link.source, link.target) for link in placed.links}
    assumed = [(one, other) for one in names for other in names if one != other and (one, other) not in known]
    return (*placed.links, *(Link(*ends, LINK_S, LINK_BYTES_PER_S) for ends in assumed))


def _estimated(device: DeviceProfile, placed: Placed, kind: DeviceClass) -> DeviceProfile:
    """With the times of a class. Those of prompts, which no placement goes by, are no better than for single tokens."""
    tokens = min(placed.context_tokens, EXPECTED_TOKENS)
    embedding_s = kind.unit_overhead_ms / 1e3  # which reads one row of its weights
    times = (embedding_s, *(_decode_s(unit, tokens, kind) for unit in placed.profile.units[1:]))
    return replace(device, decode_unit_s=times, prefill_unit_s_per_token=times)


def _decode_s(unit: UnitProfile, tokens: int, kind: DeviceClass) -> float:
    read_bytes = unit.weight_bytes + tokens * unit.kv_bytes_per_token
    reading_s = read_bytes / (kind.read_gb_per_s * 1e9)
    computing_s = 2 * unit.num_parameters / (kind.gflops * 1e9)
    return max(reading_s, computing_s) + kind.unit_overhead_ms / 1e3


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"
