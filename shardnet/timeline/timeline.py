"""What every stage did and when, all devices on the coordinator's clock. Writes no file: see `report`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shardnet.plan import Plan
from shardnet.timeline.chrome_trace import build_trace
from shardnet.timeline.clocks import Clock, ClockOffset
from shardnet.timeline.history import History
from shardnet.timeline.recorder import Totals
from shardnet.timeline.spans import Span, SpanTuple
from shardnet.timeline.stage_report import TimelineRecord, Track


@dataclass(frozen=True)
class Shares:
    """How one stage spent a run: three shares that add up to 1."""

    device: str
    stage: int
    compute: float
    wire: float
    """Waiting while a message was on its way here."""
    idle: float
    """Waiting while nothing was."""


def shares_from_totals(totals: Totals, wire_s: float, run_s: float) -> Shares:
    """The shares of a run of `run_s` seconds when no spans were kept.

    Messages that overlap a computation or each other cannot be told from totals: with several sessions in flight,
    `wire` is an upper bound and `idle` a lower one. `Timeline.shares` is exact.
    """
    run_s = max(run_s, totals.compute_s, 1e-9)
    compute = totals.compute_s / run_s
    wire = min(wire_s / run_s, 1.0 - compute)
    return Shares(totals.device, totals.stage, compute, wire, 1.0 - compute - wire)


class Timeline:
    """The spans of all stages on the coordinator's clock.

    Args:
        offsets: for each device, its clock's offset, or several of them in the course of a run. A device that is not
            named shares the coordinator's clock.
        history: what happened to the model, where that is known.
    """

    def __init__(
        self,
        offsets: Mapping[str, ClockOffset | Sequence[ClockOffset]] | None = None,
        history: History | None = None,
    ) -> None:
        self.history = history
        self._clocks = {
            device: Clock([offset] if isinstance(offset, ClockOffset) else offset)
            for device, offset in (offsets or {}).items()
        }
        self._tracks: dict[tuple[int, str], list[Span]] = {}
        self._num_dropped: dict[tuple[int, str], int] = {}

    def add(self, device: str, stage: int, spans: Iterable[SpanTuple], num_dropped: int = 0) -> None:
        """Merge what a stage's recorder drained. May be called often for one stage, in any order.

        Args:
            num_dropped: so many of its oldest spans are lost (`Totals.num_dropped_spans`).
        """
        own = self._clock(device)
        track = self._tracks.setdefault((stage, device), [])
        if num_dropped:
            self._num_dropped[stage, device] = num_dropped
        for span in map(Span._make, spans):
            end = own.to_coordinator(span.end_ns)
            sender = self._clock(span.source_device) if span.kind == "wire" else own
            # No message arrives before it was sent: what is left of the clocks' error shows as a span of no length.
            start = min(sender.to_coordinator(span.start_ns), end)
            track.append(span._replace(start_ns=start, end_ns=end))
        track.sort(key=lambda span: (span.start_ns, span.end_ns))

    def _clock(self, device: str) -> Clock:
        return self._clocks.get(device) or Clock(())

    @property
    def tracks(self) -> dict[tuple[int, str], list[Span]]:
        """For each (stage, device), in ring order, its spans by start."""
        return dict(sorted(self._tracks.items()))

    def as_record(self) -> TimelineRecord:
        """All of it as it travels."""
        tracks = tuple(
            Track(device, stage, tuple(span[:] for span in spans), self._num_dropped.get((stage, device), 0))
            for (stage, device), spans in self.tracks.items()
        )
        return TimelineRecord(tracks, self.history)

    @classmethod
    def of(cls, record: TimelineRecord) -> Timeline:
        """The one that was written down so."""
        timeline = cls(history=record.history)
        for track in record.tracks:
            timeline.add(track.device, track.stage, track.spans, track.num_dropped)
        return timeline

    @property
    def bounds_ns(self) -> tuple[int, int]:
        """When the first step began and the last one ended, on the coordinator's clock. (0, 0) without steps.

        Where spans are lost, it begins with the first that is left of each stage: before that one would seem idle.
        """
        steps = [span for track in self._tracks.values() for span in track if span.kind == "compute"]
        if not steps:
            return 0, 0
        first = min(span.start_ns for span in steps)
        last = max(span.end_ns for span in steps)
        left = [self._tracks[key][0].start_ns for key in self._num_dropped if self._tracks[key]]
        return min(max([first, *left]), last), last

    @property
    def history_of_run(self) -> History | None:
        """What happened from the first step on."""
        return None if self.history is None else self.history.since(self.bounds_ns[0])

    @property
    def what_is_lost(self) -> str:
        """A sentence on spans that were dropped; empty where none were."""
        if not self._num_dropped:
            return ""
        stages = ", ".join(
            f"{num_dropped} of stage {stage} ({device})"
            for (stage, device), num_dropped in sorted(self._num_dropped.items())
        )
        first, last = self.bounds_ns
        return (
            f"Spans were dropped, the oldest ones: {stages}. Shares are those of the last {(last - first) / 1e9:.1f} s."
        )

    def shares(self, start_ns: int | None = None, end_ns: int | None = None) -> list[Shares]:
        """What each stage did between two times (default: `bounds_ns`), in ring order."""
        first, last = self.bounds_ns
        start = first if start_ns is None else start_ns
        end = max(last if end_ns is None else end_ns, start + 1)
        return [curve[0] for curve in self.shares_over_time((start, end)).values()]

    def shares_over_time(self, edges_ns: Sequence[int]) -> dict[tuple[int, str], list[Shares]]:
        """For each (stage, device), in ring order, its shares between each two neighbours of rising `edges_ns`."""
        return {
            (stage, device): _shares_of(device, stage, track, edges_ns)
            for (stage, device), track in self.tracks.items()
        }

    def chrome_trace(self, plan: Plan | None = None) -> dict[str, Any]:
        """The run in Chrome's trace event format; opens in Perfetto and in chrome://tracing.

        One process per device; for each of its stages a row for compute, rows for wire and one for idle; an arrow
        for each message from the step that made it to the step that used it. With a `plan`, names give the units.
        What happened to the model stands in a process of its own, `coordinator`.
        """
        return build_trace(self.tracks, plan, self.history)


def _shares_of(device: str, stage: int, track: Sequence[Span], edges_ns: Sequence[int]) -> list[Shares]:
    compute = _merge((span.start_ns, span.end_ns) for span in track if span.kind == "compute")
    busy = _merge((span.start_ns, span.end_ns) for span in track if span.kind in ("compute", "wire"))
    shares = []
    for start, end in pairwise(edges_ns):
        compute_share = _covered(compute, start, end) / (end - start)
        busy_share = _covered(busy, start, end) / (end - start)
        shares.append(Shares(device, stage, compute_share, busy_share - compute_share, 1.0 - busy_share))
    return shares


def _merge(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of intervals (sorted by start) as intervals that do not overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in intervals:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _covered(intervals: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """How much of start..end the intervals (sorted, without overlap) cover."""
    covered = 0
    for index in range(max(0, bisect_right(intervals, (start, start)) - 1), len(intervals)):
        left, right = intervals[index]
        if left >= end:
            break
        covered += max(0, min(end, right) - max(start, left))
    return covered
