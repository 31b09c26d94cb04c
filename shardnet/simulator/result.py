"""What a simulated run came to, as numbers and as a trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from shardnet.plan import Plan
from shardnet.simulator.engine import Busy, Resource
from shardnet.simulator.repairs import Repairs


@dataclass(frozen=True)
class Lap:
    """One token of one session after its first."""

    session: int
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Request:
    """One prompt and its answer."""

    session: int
    start_s: float
    first_token_s: float | None
    end_s: float | None


@dataclass(frozen=True)
class Happening:
    """Something that changed the run: an event, or what was done about it."""

    at_s: float
    what: str
    why: str = ""
    kind: str = "event"
    """`event` where the script or the caller made it happen; else what `shardnet.Event.event` calls it in a real run:
    `lost`, `suspected`, `cut off`, `recovered`, `back`, `rebalanced`, `drained`; or `rerouted`, `failed`."""
    device: str = ""
    """The one that it is about."""


@dataclass(frozen=True)
class Phase:
    """The run between two happenings."""

    start_s: float
    end_s: float
    tokens_per_s: float
    mean_lap_s: float | None
    opening: str


@dataclass(frozen=True)
class Result:
    """A run, as predicted."""

    plans: tuple[Plan, ...]
    """The first, and each that replaced it."""
    duration_s: float
    num_tokens: int
    laps: tuple[Lap, ...]
    requests: tuple[Request, ...]
    busy_s: dict[Resource, float]
    spans: tuple[Busy, ...]
    happenings: tuple[Happening, ...]
    repairs: Repairs
    """What losses cost."""
    failed: str | None = None
    """Why the run could not go on, where it could not."""

    @property
    def tokens_per_s(self) -> float:
        """Over the whole run, prompts included."""
        return self.num_tokens / self.duration_s if self.duration_s > 0 else 0.0

    def steady_laps(self) -> list[Lap]:
        """Laps while all sessions decode: without those of the first third, and up to the end of the first session."""
        by_session: dict[int, list[Lap]] = {}
        for lap in self.laps:
            by_session.setdefault(lap.session, []).append(lap)
        if not by_session:
            return []
        ends = min(laps[-1].end_s for laps in by_session.values())
        begins = max(laps[0].start_s for laps in by_session.values())
        begins += (ends - begins) / 3
        inner = [lap for lap in self.laps if lap.start_s >= begins and lap.end_s <= ends]
        return inner or list(self.laps)

    @property
    def lap_s(self) -> float | None:
        """Mean seconds per token of one session, while all decode."""
        laps = self.steady_laps()
        return sum(lap.seconds for lap in laps) / len(laps) if laps else None

    @property
    def rate_per_s(self) -> float | None:
        """Tokens per second of all sessions, while all decode."""
        total: dict[int, list[float]] = {}
        for lap in self.steady_laps():
            total.setdefault(lap.session, []).append(lap.seconds)
        spent = [(len(seconds), sum(seconds)) for seconds in total.values()]
        if not spent or any(seconds <= 0 for _, seconds in spent):
            return None
        return sum(number / seconds for number, seconds in spent)

    @property
    def time_to_first_token_s(self) -> float | None:
        waits = [each.first_token_s - each.start_s for each in self.requests if each.first_token_s is not None]
        return sum(waits) / len(waits) if waits else None

    def phases(self) -> list[Phase]:
        """The run cut at its happenings."""
        together: dict[float, list[str]] = {0.0: ["start"]}
        for each in self.happenings:
            together.setdefault(each.at_s, []).append(f"{each.what} ({each.why})" if each.why else each.what)
        starts = [*together, self.duration_s]
        return [self._phase(start, end, "; ".join(together[start])) for start, end in pairwise(starts) if end > start]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`. Seconds, bytes, tokens per second; everything predicted."""
        seconds = sorted(lap.seconds for lap in self.laps)
        return {
            "predicted": True,
            "lap_s": self.lap_s,
            "lap_p50_s": quantile(seconds, 0.5),
            "lap_p95_s": quantile(seconds, 0.95),
            "rate_per_s": self.rate_per_s,
            "tokens_per_s": self.tokens_per_s,
            "time_to_first_token_s": self.time_to_first_token_s,
            "duration_s": self.duration_s,
            "tokens": self.num_tokens,
            "answers": len(self.requests),
            "busy": [
                {
                    "name": " to ".join(resource),
                    "busy_s": busy,
                    "share": busy / self.duration_s if self.duration_s else 0,
                }
                for resource, busy in self.busy_s.items()
            ],
            "happenings": [asdict(each) for each in self.happenings],
            "phases": [asdict(each) for each in self.phases()],
            "plans": [
                {"version": plan.version, "stages": [asdict(stage) for stage in plan.stages]} for plan in self.plans
            ],
            "repairs": self.repairs.to_dict(),
            "failed": self.failed,
        }

    def to_trace(self) -> dict[str, Any]:
        """A Chrome trace: one process for each device and each link, a row for each."""
        order = {resource: index + 1 for index, resource in enumerate(self.busy_s)}
        events: list[dict[str, Any]] = []
        for resource, pid in order.items():
            name = " to ".join(resource) + " (predicted)"
            events.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 1, "ts": 0, "args": {"name": name}})
        events += [_slice(span, order[span.resource]) for span in self.spans]
        for each in self.happenings:
            mark = {"ph": "i", "s": "g", "name": each.what, "pid": 1, "tid": 1, "ts": each.at_s * 1e6}
            events.append({**mark, "args": {"why": each.why}})
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"made_by": "shardnet", "predicted": True}}

    def _phase(self, start_s: float, end_s: float, opening: str) -> Phase:
        done = [lap for lap in self.laps if start_s < lap.end_s <= end_s]
        mean = sum(lap.seconds for lap in done) / len(done) if done else None
        return Phase(start_s, end_s, len(done) / (end_s - start_s), mean, opening)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile of sorted values; None of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _slice(span: Busy, pid: int) -> dict[str, Any]:
    args = {"session": span.session, "tokens": span.num_tokens, "bytes": span.num_bytes}
    return {
        "ph": "X",
        "name": span.label,
        "cat": "compute" if len(span.resource) == 1 else "wire",
        "pid": pid,
        "tid": 1,
        "ts": span.start_s * 1e6,
        "dur": (span.end_s - span.start_s) * 1e6,
        "args": args,
    }
