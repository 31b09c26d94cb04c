"""A model's configuration and a cluster's description -> the placement problem, with estimated times. Pure.

Decode is a roofline after Williams et al. (2009, "Roofline"): a unit takes the longer of reading its weights and KV
cache and of its arithmetic, and its overhead besides. Prefill is the same for a chunk of tokens, which reads weights
once. Where a device class brings measured decode times of this model and these bits, they go before the roofline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from shardnet.described.clusters import GIB, PaperCluster, PaperDevice
from shardnet.described.model_sizes import TOKEN_ID_BYTES, ModelConfig, UnitWork, unit_works
from shardnet.described.schema import require
from shardnet.foreign.bounds import SESSIONS, TOKENS, Count, check_fields
from shardnet.foreign.quoting import counted
from shardnet.plan import DTYPE_BYTES, in_runs
from shardnet.planner.bits import in_schemes
from shardnet.planner.problem import Device, Problem, Unit
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.schemes import AUTO, bits_of


@dataclass(frozen=True)
class Workload:
    """What the model is to be run with."""

    dtype: str = "float16"
    """Of activations, and of weights that are not quantised."""
    bits: int | None = None
    """Of the weights of linear layers; those of `dtype` where None."""
    context_tokens: Annotated[int, Count(1, TOKENS.most)] = 1024
    """KV memory is kept for so many tokens of each session, and decode times are those at its end."""
    sessions: Annotated[int, SESSIONS] = 1
    """Sessions whose KV caches are kept."""
    step_sessions: Annotated[int, SESSIONS] = 1
    """Sessions that share one decode step (one micro-batch)."""
    prefill_chunk: Annotated[int, Count(1, TOKENS.most)] = 128
    """Tokens of a prompt that go through a stage at once."""
    wire: str | None = None
    """What hidden states travel in between devices; `dtype` where None."""
    kv_dtype: str = KV_AUTO
    """What keys and values are kept in; auto: `dtype`."""
    weights: str = AUTO
    """A scheme of few bits, in place of `bits`: embedding and head are held in it, too."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def weight_bits(self) -> int:
        few = bits_of(self.weights) or self.bits
        return 8 * DTYPE_BYTES.get(self.dtype, 0) if few is None else few

    @property
    def held(self) -> str:
        """What weights are held in, in words."""
        return f"{self.weight_bits}-bit weights" if bits_of(self.weights) is None else f"weights {self.weights}"


@dataclass(frozen=True)
class Estimate:
    """A problem, and where its numbers come from."""

    problem: Problem
    measured: tuple[str, ...]
    """Devices whose decode times were measured; those of all others are estimated."""
    notes: tuple[str, ...]
    load_bytes_per_s: dict[str, float] = field(default_factory=dict)
    """From each device's own storage."""


def estimate_problem(model: ModelConfig, cluster: PaperCluster, workload: Workload) -> Estimate:
    """The placement problem of a model on a cluster.

    Raises:
        BadConfiguration: a context beyond the model's, an unknown dtype, measured times of another number of units.
    """
    require(
        workload.context_tokens <= model.context_tokens,
        f"{model.name} has a context of {counted(model.context_tokens, 'tokens')}, but {workload.context_tokens} are "
        "asked for; ask for fewer.",
    )
    works = unit_works(
        model,
        workload.dtype,
        workload.bits,
        workload.context_tokens,
        workload.step_sessions,
        workload.wire,
        workload.kv_dtype,
        workload.weights,
    )
    devices, measured = [], []
    for device in cluster.devices:
        decode = _measured_seconds(device, model, workload, len(works))
        if decode is None:
            decode = tuple(_decode_seconds(work, device, workload) for work in works)
        else:
            measured.append(device.name)
        devices.append(_problem_device(device, decode, works, workload))
    problem = Problem(
        units=tuple(_problem_unit(work, workload.step_sessions) for work in works),
        devices=tuple(devices),
        links=cluster.links,
        source=cluster.source,
        pin_embedding=cluster.pin_embedding,
        pin_head=cluster.pin_head,
        return_bytes=float(TOKEN_ID_BYTES * workload.step_sessions),
        context_tokens=workload.context_tokens,
        sessions=workload.sessions,
    )
    loads = {device.name: device.kind.load_mb_per_s * 1e6 for device in cluster.devices}
    return Estimate(problem, tuple(measured), _notes(model, cluster, workload, measured, workload.held), loads)


def estimate_mixed(
    model: ModelConfig, cluster: PaperCluster, workload: Workload, unit_weights: Sequence[str]
) -> Estimate:
    """The same with each unit in a scheme of its own.

    Raises:
        BadConfiguration: as `estimate_problem`; also for schemes that are not one for each unit, or other floats.
    """
    num_units = model.blocks + 2
    require(
        len(unit_weights) == num_units,
        f"there are schemes for {counted(len(unit_weights), 'units')}, but {model.name} has {num_units}.",
    )
    require(workload.bits is None, "units are held in schemes of their own; leave bits out.")
    size = DTYPE_BYTES.get(workload.dtype)
    other = next((scheme for scheme in unit_weights if DTYPE_BYTES.get(scheme, size) != size), None)
    require(other is None, f"units are held as {other}, which is no size of {workload.dtype}; take {other} for dtype.")
    found = {
        scheme: estimate_problem(model, cluster, replace(workload, weights=scheme))
        for scheme in dict.fromkeys(unit_weights)
    }
    first = found[unit_weights[0]]
    problem = in_schemes({scheme: each.problem for scheme, each in found.items()}, unit_weights)
    measured = tuple(name for name in first.measured if all(name in each.measured for each in found.values()))
    notes = _notes(model, cluster, workload, measured, f"weights {in_runs(unit_weights)}")
    return replace(first, problem=problem, measured=measured, notes=notes)


def _problem_unit(work: UnitWork, step_sessions: int) -> Unit:
    return Unit(work.name, work.weight_bytes, work.kv_bytes_per_token, float(work.output_bytes * step_sessions))


def _problem_device(
    device: PaperDevice, decode: tuple[float, ...], works: Sequence[UnitWork], workload: Workload
) -> Device:
    kind = device.kind
    return Device(
        name=device.name,
        memory_bytes=kind.memory_gib * GIB,
        unit_seconds=decode,
        prefill_unit_seconds=tuple(_prefill_seconds(work, device, workload) for work in works),
        active_w=kind.active_w,
        radio_j_per_byte=(kind.radio_j_per_mb or 0.0) / 1e6,
        battery_j=None if kind.battery_wh is None else kind.battery_wh * 3600,
    )


def _decode_seconds(work: UnitWork, device: PaperDevice, workload: Workload) -> float:
    """One step of `step_sessions` tokens, at the end of the context."""
    sessions, cached = workload.step_sessions, workload.context_tokens
    bytes_read = work.read_bytes + sessions * cached * work.kv_bytes_per_token
    flops = sessions * (work.flops_per_token + cached * work.attention_flops_per_cached_token)
    return _roofline(bytes_read, flops, device)


def _prefill_seconds(work: UnitWork, device: PaperDevice, workload: Workload) -> float:
    """One token of a chunk, in mid-context. A chunk of an expert model reads every expert."""
    chunk, cached = workload.prefill_chunk, workload.context_tokens / 2
    bytes_read = max(work.read_bytes, work.weight_bytes if work.flops_per_token else 0)
    flops = chunk * (work.flops_per_token + cached * work.attention_flops_per_cached_token)
    return _roofline(bytes_read + cached * work.kv_bytes_per_token, flops, device) / chunk


def _roofline(bytes_read: float, flops: float, device: PaperDevice) -> float:
    kind = device.kind
    return max(bytes_read / (kind.read_gb_per_s * 1e9), flops / (kind.gflops * 1e9)) + kind.unit_overhead_ms / 1e3


def _measured_seconds(
    device: PaperDevice, model: ModelConfig, workload: Workload, num_units: int
) -> tuple[float, ...] | None:
    for table in device.kind.measured:
        if table.model == model.name and table.bits == workload.weight_bits and workload.step_sessions == 1:
            require(
                len(table.unit_ms) == num_units,
                f"{device.name}: {len(table.unit_ms)} measured times for the {num_units} units of {model.name}.",
            )
            return tuple(ms / 1e3 for ms in table.unit_ms)
    return None


def _notes(
    model: ModelConfig, cluster: PaperCluster, workload: Workload, measured: Sequence[str], held: str
) -> tuple[str, ...]:
    kept = f"{counted(workload.sessions, 'sessions')} of {counted(workload.context_tokens, 'tokens')}"
    notes = [f"{model.name} in {held}, the rest in {workload.dtype}, {kept}."]
    if measured:
        notes.append(f"Decode times of {len(measured)} of {counted(len(cluster.devices), 'devices')} were measured.")
    if len(measured) < len(cluster.devices):
        notes.append("Times of the other devices are estimated by a roofline." if measured else "Times are estimated.")
    if model.tied:
        notes.append("The head's weights are tied to the embedding's and counted once for each of the two.")
    return tuple(notes)
