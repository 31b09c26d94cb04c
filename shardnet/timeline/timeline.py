"""What every stage did and when: totals always, spans when someone profiles, all devices on one clock afterwards.

Times are integers of `clock_ns`, which is `time.monotonic_ns` everywhere in shardnet: one clock per host, with an
arbitrary zero. Two hosts' clocks are brought together by `offset_from_pings`. Standard library only; writes no file:
see `shardnet.timeline.report`.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple

from shardnet.plan import Plan
from shardnet.timeline.chrome_trace import build_trace

clock_ns = time.monotonic_ns
"""The clock of every span. Not `time_ns`: that one jumps when the date is set."""

SpanTuple = tuple[str, int, int, int, int, int, str]
"""A span as it travels: the fields of `Span` in order."""


class Span(NamedTuple):
    """One stretch of time of one stage."""

    kind: str
    """`compute`, `wire` (a message on its way to this stage) or `idle` (the compute thread waits)."""
    start_ns: int
    """Of a wire span: when it was sent, on the sender's clock until a `Timeline` has merged it."""
    end_ns: int
    num_tokens: int = 0
    num_sessions: int = 0
    num_bytes: int = 0
    source_device: str = ""

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Totals:
    """What a stage did since its recorder was made or reset."""

    device: str
    stage: int
    compute_s: float = 0.0
    idle_s: float = 0.0
    wire_s: float = 0.0
    """Sum over messages, as seen by the two clocks: `corrected_wire_s` removes their difference."""
    num_steps: int = 0
    num_tokens: int = 0
    num_messages: int = 0
    bytes_in: int = 0
    num_dropped_spans: int = 0
    """Oldest spans that were dropped because nobody drained them in time."""
    messages_from: tuple[tuple[str, int], ...] = ()
    """For each device that sent messages, how many."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, as they travel; `from_dict` undoes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Totals:
        pairs = tuple((str(device), int(count)) for device, count in values.get("messages_from", ()))
        return cls(**{**values, "messages_from": pairs})

    def corrected_wire_s(self, offsets: Mapping[str, ClockOffset]) -> float:
        """Seconds on the wire, with what the two ends' clocks differ by taken out. Never negative."""
        own = _offset_ns(offsets, self.device)
        skew_ns = sum(count * (_offset_ns(offsets, source) - own) for source, count in self.messages_from)
        return max(0.0, self.wire_s + skew_ns / 1e9)


class Recorder:
    """The log book of one stage.

    Cheap enough for every step (about a microsecond a span). The compute thread calls `compute` and `idle`, any
    number of RPC threads call `wire`.
    """

    def __init__(self, device: str, stage: int, capacity: int = 100_000) -> None:
        self.device = device
        self.stage = stage
        self.keep_spans = False
        """False: totals only. True: spans too, the newest `capacity` of them until `drain`."""
        self._spans: deque[SpanTuple] = deque(maxlen=capacity)
        self._lock = Lock()
        self.reset()

    def compute(self, start_ns: int, end_ns: int, *, num_tokens: int, num_sessions: int) -> None:
        """A step ran from `start_ns` to `end_ns` for `num_tokens` new tokens of `num_sessions` sessions."""
        with self._lock:
            self._compute_ns += end_ns - start_ns
            self._num_steps += 1
            self._num_tokens += num_tokens
            if self.keep_spans:
                self._keep(("compute", start_ns, end_ns, num_tokens, num_sessions, 0, ""))

    def wire(self, sent_ns: int, received_ns: int, *, source_device: str, num_bytes: int, num_sessions: int) -> None:
        """A message came in. `sent_ns` is on the clock of `source_device`, `received_ns` on ours."""
        with self._lock:
            self._wire_ns += received_ns - sent_ns
            self._bytes_in += num_bytes
            self._messages_from[source_device] = self._messages_from.get(source_device, 0) + 1
            if self.keep_spans:
                self._keep(("wire", sent_ns, received_ns, 0, num_sessions, num_bytes, source_device))

    def idle(self, start_ns: int, end_ns: int) -> None:
        """The compute thread had nothing to do from `start_ns` to `end_ns`."""
        with self._lock:
            self._idle_ns += end_ns - start_ns
            if self.keep_spans:
                self._keep(("idle", start_ns, end_ns, 0, 0, 0, ""))

    def _keep(self, span: SpanTuple) -> None:
        if len(self._spans) == self._spans.maxlen:
            self._num_dropped += 1
        self._spans.append(span)

    def totals(self) -> Totals:
        with self._lock:
            return Totals(
                device=self.device,
                stage=self.stage,
                compute_s=self._compute_ns / 1e9,
                idle_s=self._idle_ns / 1e9,
                wire_s=self._wire_ns / 1e9,
                num_steps=self._num_steps,
                num_tokens=self._num_tokens,
                num_messages=sum(self._messages_from.values()),
                bytes_in=self._bytes_in,
                num_dropped_spans=self._num_dropped,
                messages_from=tuple(sorted(self._messages_from.items())),
            )

    def drain(self) -> list[SpanTuple]:
        """The kept spans, oldest first, as plain tuples; the recorder forgets them (totals stay)."""
        with self._lock:
            spans = list(self._spans)
            self._spans.clear()
            return spans

    def reset(self) -> None:
        """Forget totals and spans, as before the first step."""
        with self._lock:
            self._spans.clear()
            self._messages_from: dict[str, int] = {}
            self._compute_ns = self._wire_ns = self._idle_ns = 0
            self._num_steps = self._num_tokens = self._bytes_in = self._num_dropped = 0


@dataclass(frozen=True)
class ClockOffset:
    """How far a device's clock is ahead of the coordinator's."""

    offset_ns: int
    uncertainty_ns: int
    """The true offset is within this of `offset_ns`."""
    at_ns: int = 0
    """When that held, on the device's clock."""


def offset_from_pings(samples: Sequence[tuple[int, int, int]]) -> ClockOffset:
    """A remote clock's offset from some pings.

    Each ping bounds the offset: the remote clock was read after the ping left and before its answer came, so the
    offset lies between `remote - received` and `remote - sent`. All pings' bounds are intersected (Marzullo, 1984),
    which is never worse than NTP's rule of taking the shortest ping, and better where the shortest way there and the
    shortest way back were different pings. Bounds that contradict each other mean that a clock was stopped or
    stepped meanwhile; then the shortest ping alone decides.

    Args:
        samples: (sent_ns, remote_ns, received_ns); the first and last on our clock, the middle on the remote one.

    Raises:
        ValueError: there are no samples, or one was received before it was sent.
    """
    if not samples:
        raise ValueError("a clock offset needs at least one ping, but there is none.")
    for sent, _, received in samples:
        if received < sent:
            raise ValueError(f"a ping must be received after it was sent, but {received} < {sent}.")
    shortest = min(samples, key=lambda sample: sample[2] - sample[0])
    least = max(remote - received for _, remote, received in samples)
    most = min(remote - sent for sent, remote, _ in samples)
    if least > most:
        sent, remote, received = shortest
        least, most = remote - received, remote - sent
    return ClockOffset((least + most) // 2, (most - least + 1) // 2, at_ns=shortest[1])


class Clock:
    """Turns a device's times into the coordinator's; interpolates where the offset was measured several times.

    Clocks of cheap boards drift by 50 us a second and more: a run of minutes wants an offset before it and one after.
    """

    def __init__(self, offsets: Sequence[ClockOffset]) -> None:
        self._offsets = sorted(offsets, key=lambda offset: offset.at_ns)
        self._times = [offset.at_ns for offset in self._offsets]

    def to_coordinator(self, ns: int) -> int:
        if not self._offsets:
            return ns
        after = bisect_right(self._times, ns)
        if after == 0 or after == len(self._offsets):
            return ns - self._offsets[min(after, len(self._offsets) - 1)].offset_ns
        left, right = self._offsets[after - 1], self._offsets[after]
        weight = (ns - left.at_ns) / (right.at_ns - left.at_ns)
        return ns - round(left.offset_ns + weight * (right.offset_ns - left.offset_ns))


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


def shares_from_totals(totals: Totals, run_s: float, offsets: Mapping[str, ClockOffset] | None = None) -> Shares:
    """The shares of a run of `run_s` seconds when no spans were kept.

    Messages that overlap a computation or each other cannot be told from totals: with several sessions in flight,
    `wire` is an upper bound and `idle` a lower one. `Timeline.shares` is exact.
    """
    run_s = max(run_s, totals.compute_s, 1e-9)
    compute = totals.compute_s / run_s
    wire = min(totals.corrected_wire_s(offsets or {}) / run_s, 1.0 - compute)
    return Shares(totals.device, totals.stage, compute, wire, 1.0 - compute - wire)


class Timeline:
    """The spans of all stages on the coordinator's clock.

    Args:
        offsets: for each device, its clock's offset, or several of them in the course of a run. A device that is not
            named shares the coordinator's clock.
    """

    def __init__(self, offsets: Mapping[str, ClockOffset | Sequence[ClockOffset]] | None = None) -> None:
        self._clocks = {
            device: Clock([offset] if isinstance(offset, ClockOffset) else offset)
            for device, offset in (offsets or {}).items()
        }
        self._tracks: dict[tuple[int, str], list[Span]] = {}

    def add(self, device: str, stage: int, spans: Iterable[SpanTuple]) -> None:
        """Merge what a stage's recorder drained. May be called often for one stage, in any order."""
        own = self._clock(device)
        track = self._tracks.setdefault((stage, device), [])
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

    @property
    def bounds_ns(self) -> tuple[int, int]:
        """When the first step began and the last one ended, on the coordinator's clock. (0, 0) without steps."""
        steps = [span for track in self._tracks.values() for span in track if span.kind == "compute"]
        if not steps:
            return 0, 0
        return min(span.start_ns for span in steps), max(span.end_ns for span in steps)

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
        """
        return build_trace(self.tracks, plan)


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


def _offset_ns(offsets: Mapping[str, ClockOffset], device: str) -> int:
    offset = offsets.get(device)
    return offset.offset_ns if offset else 0
