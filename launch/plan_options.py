"""The options of `shardnet plan` and `shardnet simulate`, as they were typed. Loads no planner: see `plan_run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProblemOptions:
    """The options of both commands that say what is to be placed."""

    problem: Path | None = None
    model: str | None = None
    cluster: str | None = None
    dtype: str | None = None
    bits: int | None = None
    context: int | None = None
    sessions: int | None = None
    in_flight: int = 1
    source: str | None = None
    bandwidth: Sequence[str] = ()
    pin_embedding: bool | None = None
    pin_head: bool | None = None


@dataclass(frozen=True)
class PlannerOptions:
    """How to plan."""

    objective: str
    method: str
    in_flight: int
    lap_limit_s: float | None
    time_limit_s: float | None


@dataclass(frozen=True)
class PlanOutput:
    """What `shardnet plan` shows."""

    compare: bool
    explain: bool
    plot: Path | None
    json: bool


@dataclass(frozen=True)
class RunOptions:
    """What `shardnet simulate` runs and shows."""

    plan_file: Path | None
    prompt_tokens: int
    new_tokens: int
    requests: int | None
    prefill_chunk: int
    jitter: float
    seed: int
    event: Sequence[str]
    events: Path | None
    rebalance: bool
    plot: Path | None
    trace: Path | None
    json: bool
