"""What was measured of a device or a link, as records, and what they say of steps that were not measured. Pure.

Measures nothing itself: see `shardnet.profiling.profiler` and `shardnet.profiling.link_probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

from shardnet.described.model_sizes import UnitWork
from shardnet.described.schema import Place, read_record, require
from shardnet.foreign.bounds import BYTES, BYTES_PER_S, SECONDS, SESSIONS, TOKENS, WATTS, Amount, Count
from shardnet.plan import PROFILED_TOKENS, DeviceProfile, Link
from shardnet.profiling.hardware import Hardware
from shardnet.profiling.kernel_timing import KernelTiming, orders_of
from shardnet.profiling.power import UNKNOWN_POWER, PowerState
from shardnet.profiling.roofline import Roofline, TimedWork, decode_work, fit_roofline, prefill_work
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.schemes import AUTO

_SOME_TOKENS = Count(1, TOKENS.most)
_TOOK = Amount(SECONDS.most, above_zero=True)


@dataclass(frozen=True)
class StepTiming:
    """The time of one kind of step of one unit: the lower quartile of some runs."""

    num_sessions: Annotated[int, SESSIONS]
    num_tokens: Annotated[int, _SOME_TOKENS]
    """New tokens of each session: 1 when decoding, more in prefill."""
    context_tokens: Annotated[int, TOKENS]
    """Tokens that each session had cached before."""
    seconds: Annotated[float, _TOOK]
    num_runs: int = 1

    @property
    def is_decode(self) -> bool:
        return self.num_tokens == 1


@dataclass(frozen=True)
class UnitMeasurement:
    """The times of a unit, which stands for all units that are like it."""

    work: UnitWork
    units: tuple[int, ...]
    """The indices of the units for which it stands."""
    steps: tuple[StepTiming, ...]

    def __post_init__(self) -> None:
        require(any(step.is_decode for step in self.steps), "steps has no decode step.")
        require(any(map(_begins_prompt, self.steps)), "steps has no chunk at the beginning of a prompt.")

    def decode_s(self, num_sessions: int, context_tokens: int) -> float:
        """Seconds of one decode step, interpolated between those that were measured."""
        return _on_grid([step for step in self.steps if step.is_decode], num_sessions, context_tokens)

    def prefill_s_per_token(self, chunk_tokens: int) -> float:
        """Seconds for each token of a chunk at the begin of a prompt."""
        chunks = {step.num_tokens: step.seconds for step in self.steps if _begins_prompt(step)}
        return _on_line(chunks, chunk_tokens) / chunk_tokens


@dataclass(frozen=True)
class ThreadTrial:
    """How fast a run of blocks was with a number of threads."""

    num_threads: int
    decode_s: float
    decode_under_load_s: float
    """While another program kept one core busy."""
    prefill_s: float


@dataclass(frozen=True)
class DeviceMeasurement:
    """Everything that was measured of one device with one model and dtype."""

    device: str
    model: str
    dtype: str
    hardware: Hardware
    versions: Mapping[str, str]
    measured_at_s: float
    """Seconds since 1970."""
    took_s: float
    memory_bytes: Annotated[int, Count(0, int(BYTES.most))]
    num_threads: Annotated[int, Count(1, 10**5)]
    trials: tuple[ThreadTrial, ...]
    units: tuple[UnitMeasurement, ...]
    power_before: PowerState = UNKNOWN_POWER
    power_after: PowerState = UNKNOWN_POWER
    active_w: Annotated[float | None, WATTS] = None
    """Power while computing."""
    weights: str = AUTO
    """In how many bits they were held: one of `schemes.SCHEMES`."""
    kv_dtype: str = KV_AUTO
    """In what keys and values were kept: one of `kv_names.KV_DTYPES`."""
    kernels: tuple[KernelTiming, ...] = ()
    """What multiplies by matrices of few bits, each by what suits it; none where there is nothing to choose."""

    def __post_init__(self) -> None:
        stood_for = sorted(index for unit in self.units for index in unit.units)
        require(stood_for == list(range(self.num_units)), "units must stand for each unit of the model once.")

    @property
    def num_units(self) -> int:
        return sum(len(unit.units) for unit in self.units)

    def to_profile(
        self,
        name: str | None = None,
        *,
        num_sessions: int = 1,
        context_tokens: int = 512,
        chunk_tokens: int = PROFILED_TOKENS,
    ) -> DeviceProfile:
        """What a planner wants to know: seconds of each unit for decode steps and prompts of this kind."""
        decode, prefill = [0.0] * self.num_units, [0.0] * self.num_units
        for unit in self.units:
            for index in unit.units:
                decode[index] = unit.decode_s(num_sessions, context_tokens)
                prefill[index] = unit.prefill_s_per_token(chunk_tokens)
        return DeviceProfile(
            name=name or self.device,
            memory_bytes=self.memory_bytes,
            decode_unit_s=tuple(decode),
            prefill_unit_s_per_token=tuple(prefill),
            num_threads=self.num_threads,
            active_w=self.active_w,
            kernels=orders_of(self.kernels),
        )

    def roofline(self) -> Roofline:
        """The roofline through all measured steps of blocks and head. The embedding only looks up rows."""
        return fit_roofline(
            [
                TimedWork(*_work_of(unit.work, step), step.seconds)
                for unit in self.units
                if unit.work.flops_per_token
                for step in unit.steps
            ]
        )

    def estimate_profile(
        self,
        works: Sequence[UnitWork],
        name: str | None = None,
        *,
        num_sessions: int = 1,
        context_tokens: int = 512,
        chunk_tokens: int = PROFILED_TOKENS,
    ) -> DeviceProfile:
        """The profile for another model, whose units' sizes are known (`model_sizes.unit_works`), by the roofline."""
        roofline = self.roofline()
        decode = [roofline.decode_s(unit, num_sessions=num_sessions, context_tokens=context_tokens) for unit in works]
        prefill = [roofline.prefill_s_per_token(unit, chunk_tokens=chunk_tokens) for unit in works]
        return replace(
            self.to_profile(name),
            decode_unit_s=tuple(decode),
            prefill_unit_s_per_token=tuple(prefill),
            is_estimated=True,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` undoes it."""
        return {**asdict(self), "hardware": self.hardware.as_dict(), "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeviceMeasurement:
        """Undo `as_dict`.

        Raises:
            BadConfiguration: the values are not those of a measurement.
        """
        return read_record(cls, values, Place("measurement"))


@dataclass(frozen=True)
class LinkMeasurement:
    """What was measured of the way to another device and back."""

    source: str
    target: str
    latency_s: Annotated[float, SECONDS]
    """One way, of a message without payload: half of a round trip."""
    slow_latency_s: Annotated[float, SECONDS]
    """The same for the slowest tenth of the messages."""
    to_bytes_per_s: Annotated[float, BYTES_PER_S]
    from_bytes_per_s: Annotated[float, BYTES_PER_S]
    hop_s: Annotated[float, SECONDS]
    """One way, of a message of decoding in a ring (see `hop_probe`), less the time of its payload at the bandwidth.

    More than the latency: such a message carries a kilobyte besides its payload, and finds cold caches.
    """
    decode_s: Annotated[float, SECONDS]
    """One way there, with the hidden state of one token."""
    prefill_to_s: Annotated[float, SECONDS]
    """One way there, with the hidden states of a chunk of a prompt."""
    prefill_from_s: Annotated[float, SECONDS]

    def to_profiles(self) -> tuple[Link, Link]:
        """The way there and the way back, as decoding takes it."""
        return (
            Link(self.source, self.target, self.hop_s, self.to_bytes_per_s),
            Link(self.target, self.source, self.hop_s, self.from_bytes_per_s),
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LinkMeasurement:
        """Undo `as_dict`.

        Raises:
            BadConfiguration: the values are not those of a measurement.
        """
        return read_record(cls, values, Place("link"))


def _begins_prompt(step: StepTiming) -> bool:
    return not step.is_decode and not step.context_tokens


def _work_of(work: UnitWork, step: StepTiming) -> tuple[float, float]:
    if step.is_decode:
        return decode_work(work, step.num_sessions, step.context_tokens)
    return prefill_work(work, step.num_tokens, step.context_tokens)


def _on_grid(steps: Sequence[StepTiming], num_sessions: int, context_tokens: int) -> float:
    """Interpolated first along the context for each measured number of sessions, then along that number."""
    by_sessions: dict[int, dict[int, float]] = {}
    for step in steps:
        by_sessions.setdefault(step.num_sessions, {})[step.context_tokens] = step.seconds
    return _on_line({count: _on_line(line, context_tokens) for count, line in by_sessions.items()}, num_sessions)


def _on_line(points: Mapping[int, float], x: float) -> float:
    """Through measured points by straight lines; beyond the last one the last line goes on, but never falls."""
    xs = sorted(points)
    if len(xs) == 1 or x <= xs[0]:
        return points[xs[0]]
    left, right = next(((a, b) for a, b in pairwise(xs) if x <= b), (xs[-2], xs[-1]))
    slope = (points[right] - points[left]) / (right - left)
    if x > right:
        return points[right] + max(0.0, slope) * (x - right)
    return points[left] + slope * (x - left)
