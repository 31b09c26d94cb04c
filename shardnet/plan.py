"""The frozen records that modules hand to each other: what a device, a link and a model are like, and a plan.

Standard library only. Decides nothing: see `shardnet.planner`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from shardnet.foreign.bounds import BYTES_PER_S, SECONDS

PROFILED_TOKENS = 128
"""Of a chunk of so many a profile says what each token of a prompt takes."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DTYPES = tuple(DTYPE_BYTES)
"""In which a model computes. In what hidden states travel: see `codecs`."""


class KernelOrder(NamedTuple):
    """Which kernels a device holds a matrix of few bits by, the best first, as it was timed there."""

    bits: int
    group: int
    rounds_activations: bool
    """These three are the matrix's form, see `quantised.schemes`."""
    num_outputs: int
    num_inputs: int
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class DeviceProfile:
    """What was measured (or is assumed) of one device."""

    name: str
    memory_bytes: int
    """Memory that shardnet may use: weights, KV caches and workspace."""
    decode_unit_s: tuple[float, ...] = ()
    """Seconds of one decode step of each unit, in unit order."""
    prefill_unit_s_per_token: tuple[float, ...] = ()
    """Seconds of prefill of each unit for one token, in unit order."""
    num_threads: int = 1
    host: str = ""
    """Devices of one host share its cores. An accelerator is one by itself."""
    host_cores: int = 1
    """An accelerator's are as many as one device has threads: there one computes at a time."""
    active_w: float | None = None
    """Power while computing, in watts; None where it cannot be read."""
    is_estimated: bool = False
    """True where the times come from a roofline and not from a measurement of this very model."""
    kernels: tuple[KernelOrder, ...] = ()
    """By what it holds matrices of few bits; of others the first that suits. It stays while a model is loaded."""


@dataclass(frozen=True)
class Link:
    """What was measured (or is assumed) of the directed way from one device to another."""

    source: str
    target: str
    latency_s: Annotated[float, SECONDS]
    bytes_per_s: Annotated[float, BYTES_PER_S]

    def seconds(self, num_bytes: float) -> float:
        """Seconds that `num_bytes` take over this link."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class UnitProfile:
    """The sizes of one unit."""

    name: str
    weight_bytes: int
    kv_bytes_per_token: int
    output_bytes: int
    """Bytes that leave the unit for one token."""
    num_parameters: int = 0


class Classifier(NamedTuple):
    """What a model tells apart that classifies texts and writes none."""

    labels: tuple[str, ...]
    """What its scores are for, in order."""
    problem_type: str = ""
    """Its task, as its configuration has it: regression, single_label_classification, multi_label_classification;
    empty where that does not say."""
    pad_id: int | None = None
    """The token that fills texts up: behind the last other one of a text it counts for nothing."""


@dataclass(frozen=True)
class ModelProfile:
    """The sizes of a model, unit by unit: the embedding, the blocks, the head."""

    name: str
    family: str
    dtype: str
    units: tuple[UnitProfile, ...]
    context_tokens: int
    """The longest context that the model was made for."""
    vocabulary: int = 0
    """Number of token ids."""
    few_bits: str = ""
    """How weights are held that are not floats in `dtype`: int4, int8, w8a8, or auto, as their file has them."""
    unit_weights: tuple[str, ...] = ()
    """The scheme of each unit, where they differ: they stay with the units, whoever holds them."""
    predicted_loss: float | None = None
    """By how much these are predicted to raise the perplexity: 0.01 is one percent."""
    kv_dtype: str = "auto"
    """What keys and values are kept in; auto: in `dtype`."""
    classifier: Classifier | None = None
    """None of a model that writes text."""

    @property
    def numbers(self) -> str:
        """What it is held and computed in, in words."""
        held = "weights as in the file, " if self.few_bits == "auto" else f"weights {self.few_bits}, "
        kept = "" if self.kv_dtype == "auto" else f", keys and values {self.kv_dtype}"
        return f"{held if self.few_bits else ''}{self.dtype}{kept}"

    @property
    def num_units(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class StagePlan:
    """Consecutive units on one device; both ends are included."""

    device: str
    first_unit: int
    last_unit: int

    @property
    def num_units(self) -> int:
        return self.last_unit - self.first_unit + 1

    def covers(self, other: StagePlan) -> bool:
        """Whether it has all units of another one, on the same device."""
        return self.device == other.device and self.first_unit <= other.first_unit and other.last_unit <= self.last_unit

    @property
    def units(self) -> str:
        """Its units in words: "10-14", or "7"."""
        return f"{self.first_unit}-{self.last_unit}" if self.num_units > 1 else str(self.first_unit)


Stages = tuple[StagePlan, ...]


@dataclass(frozen=True)
class LeftOut:
    """A device that the plan does not use, and why."""

    device: str
    why: str


@dataclass(frozen=True)
class Plan:
    """Who holds what. The ring is `stages` in order and the way back to the first."""

    stages: tuple[StagePlan, ...]
    version: int = 1
    method: str = ""
    objective: str = "latency"
    lap_s: float | None = None
    """Predicted seconds per token of one session."""
    bottleneck_s: float | None = None
    """Predicted busy seconds per lap of the busiest device or link."""
    rate_per_s: float | None = None
    """Predicted tokens per second with the sessions in flight that the objective names; a bound where a lap uses a
    device or a link twice."""
    simulated_rate_per_s: float | None = None
    """The same as a simulated run gives it; None where none was made."""
    energy_j: float | None = None
    optimal: bool = False
    """True where it is proven that no plan is better: none has a shorter lap, takes less energy, or has a rate that is
    more than 1% greater. Such rates count as tied; `gap` is 0 where of these the shortest lap is proven, too."""
    gap: float | None = None
    """Proven bound on how far the plan is from the best: 0.02 is 2%; None where nothing is proven."""
    left_out: tuple[LeftOut, ...] = ()
    solve_s: float | None = None
    why: str = ""
    """In words: what limits this plan."""
    measured_lap_s: float | None = None
    """Median seconds per token of the latest sessions; None before the first run."""
    unit_weights: tuple[str, ...] = ()
    """In how many bits each unit is held, where units differ: a scheme of weights for each."""
    predicted_loss: float | None = None
    """How much more perplexity that is predicted to make."""

    @property
    def num_units(self) -> int:
        return self.stages[-1].last_unit + 1

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices in use, each once, in ring order."""
        return tuple(dict.fromkeys(stage.device for stage in self.stages))

    def device_of(self, unit: int) -> str:
        """Who holds a unit."""
        return next(stage.device for stage in self.stages if unit <= stage.last_unit)

    def units_on(self, device: str) -> list[int]:
        """The units that a device holds, in order; none where it is not in use."""
        held = [stage for stage in self.stages if stage.device == device]
        return [unit for stage in held for unit in range(stage.first_unit, stage.last_unit + 1)]

    def __str__(self) -> str:
        """The plan as a table that a person can read."""
        width = max(len(stage.device) for stage in self.stages)
        lines = [f"Plan {self.version}" + (f", {self.method}" if self.method else "") + self._proof()]
        for index, stage in enumerate(self.stages):
            held = self.unit_weights[stage.first_unit : stage.last_unit + 1]
            bits = f"  {in_runs(held, stage.first_unit)}" if held else ""
            lines.append(f"  stage {index}  {stage.device:<{width}}  units {stage.units} ({stage.num_units}){bits}")
        if self.predicted_loss is not None:
            lines.append(f"  predicted loss: {self.predicted_loss:.2%} more perplexity by weights of few bits")
        if self.lap_s is not None:
            rate = "" if self.rate_per_s is None else f", {self.rate_per_s:.1f} tokens/s"
            lines.append(f"  predicted: {self.lap_s * 1e3:.1f} ms a token of one session{rate}")
        if self.measured_lap_s is not None:
            lines.append(f"  measured:  {self.measured_lap_s * 1e3:.1f} ms a token of the latest sessions")
        lines += [f"  left out: {each.device}: {each.why}" for each in self.left_out]
        if self.why:
            lines.append(f"  {self.why}")
        return "\n".join(lines)

    def _proof(self) -> str:
        if self.optimal and not self.gap:
            return ", proven best"
        return "" if self.gap is None else f", at most {self.gap:.1%} from the best"


def in_runs(schemes: Sequence[str], first_unit: int = 0) -> str:
    """Schemes of units that follow each other, in words: "int8", or "bfloat16 0-3, int4 4-31"."""
    if len(set(schemes)) == 1:
        return schemes[0]
    runs: list[tuple[str, int, int]] = []
    for unit, scheme in enumerate(schemes, first_unit):
        if runs and runs[-1][0] == scheme:
            runs[-1] = scheme, runs[-1][1], unit
        else:
            runs.append((scheme, unit, unit))
    return ", ".join(
        f"{scheme} {first}-{last}" if last > first else f"{scheme} {first}" for scheme, first, last in runs
    )


def owners_of(stages: Sequence[StagePlan]) -> list[str]:
    """The device of each unit, in unit order."""
    return [stage.device for stage in stages for _ in range(stage.num_units)]


def stages_of_owners(owners: Iterable[str]) -> Stages:
    """The stages of which each unit is on the device that is named for it."""
    return merged_stages([StagePlan(owner, unit, unit) for unit, owner in enumerate(owners)])


def merged_stages(stages: Sequence[StagePlan]) -> Stages:
    """Stages that follow each other on one device as one: between them nothing travels."""
    merged: list[StagePlan] = []
    for stage in stages:
        if merged and merged[-1].device == stage.device:
            merged[-1] = StagePlan(stage.device, merged[-1].first_unit, stage.last_unit)
        else:
            merged.append(stage)
    return tuple(merged)


def stages_from_counts(devices: Sequence[str], counts: Sequence[int]) -> Stages:
    """Lay `counts` units in order over `devices`; devices with a count of 0 get no stage."""
    stages: list[StagePlan] = []
    first = 0
    for device, count in zip(devices, counts, strict=True):
        if count:
            stages.append(StagePlan(device, first, first + count - 1))
            first += count
    return tuple(stages)
