"""Chrome's trace event format (the JSON that Perfetto and chrome://tracing open) from merged spans. Pure.

Format: "Trace Event Format" by the Chromium project. Times are microseconds; `X` is a slice, `M` names something,
`s` and `f` are the two ends of an arrow, `C` is a counter, `i` a mark.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from shardnet.foreign.quoting import counted
from shardnet.plan import Plan
from shardnet.timeline.coordinator_track import coordinator_events
from shardnet.timeline.history import History
from shardnet.timeline.spans import Span

Event = dict[str, Any]
Tracks = Mapping[tuple[int, str], Sequence[Span]]

_ROWS_PER_STAGE = 1000
"""Thread ids of stage i start at i times this: compute first, wire lanes next, idle last."""
_IDLE_ROW = _ROWS_PER_STAGE - 1


def build_trace(tracks: Tracks, plan: Plan | None = None, history: History | None = None) -> dict[str, Any]:
    """The trace of stages `(index, device) -> spans by start`, all on one clock. Begins at time 0."""
    spans = [span for track in tracks.values() for span in track]
    origin = min((span.start_ns for span in spans), default=history.loaded_ns if history else 0)
    devices = list(dict.fromkeys(device for _, device in tracks))
    events: list[Event] = []
    for (stage, device), track in tracks.items():
        pid = devices.index(device) + 1
        events += _process_names(pid, device, _label(device, tracks, plan))
        events += _stage_events(pid, stage, track, origin)
    events += _arrows(tracks, devices, origin)
    if history is not None:
        events += coordinator_events(history, len(devices) + 1, origin)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"made_by": "shardnet", "clock": "monotonic"}}


def _label(device: str, tracks: Tracks, plan: Plan | None) -> str:
    """Such as `phone: stage 1 (units 4-9)`."""
    parts = []
    for stage, owner in tracks:
        if owner != device:
            continue
        placed = plan.stages[stage] if plan and stage < len(plan.stages) else None
        units = f" (units {placed.first_unit}-{placed.last_unit})" if placed and placed.device == device else ""
        parts.append(f"stage {stage}{units}")
    return f"{device}: {', '.join(parts)}"


def _process_names(pid: int, device: str, label: str) -> list[Event]:
    return [
        _name("process_name", pid, 0, name=device),
        _name("process_labels", pid, 0, labels=label),
        _name("process_sort_index", pid, 0, sort_index=pid),
    ]


def _stage_events(pid: int, stage: int, track: Sequence[Span], origin: int) -> list[Event]:
    base = stage * _ROWS_PER_STAGE + 1
    rows = {base: f"stage {stage} compute"}
    events: list[Event] = []
    lanes = _lanes([span for span in track if span.kind == "wire"])
    for lane, wires in enumerate(lanes):
        rows[base + 1 + lane] = f"stage {stage} wire" + (f" {lane + 1}" if lane else "")
        events += [_slice(span, f"from {span.source_device}", pid, base + 1 + lane, origin) for span in wires]
    for span in track:
        if span.kind == "compute":
            events.append(_slice(span, _step_name(span), pid, base, origin))
            events.append(_counter(f"stage {stage} sessions in a step", pid, span.start_ns - origin, span.num_sessions))
        elif span.kind == "idle":
            events.append(_slice(span, "idle", pid, base - 1 + _IDLE_ROW, origin))
            rows[base - 1 + _IDLE_ROW] = f"stage {stage} idle"
    for tid, name in rows.items():
        events.append(_name("thread_name", pid, tid, name=name))
        events.append(_name("thread_sort_index", pid, tid, sort_index=tid))
    return events


def _lanes(wires: Sequence[Span]) -> list[list[Span]]:
    """Messages that are under way together on rows of their own: slices of one row must not overlap partly.

    What does not fit in the rows that a stage has (hundreds of messages at once) is left out.
    """
    lanes: list[list[Span]] = []
    for span in wires:
        free = next((lane for lane in lanes if lane[-1].end_ns <= span.start_ns), None)
        if free is not None:
            free.append(span)
        elif len(lanes) < _IDLE_ROW - 2:
            lanes.append([span])
    return lanes


def _step_name(span: Span) -> str:
    if span.num_tokens == span.num_sessions:
        return "decode" if span.num_sessions == 1 else f"decode {span.num_sessions} sessions"
    return f"prefill {counted(span.num_tokens, 'tokens')}"


def _arrows(tracks: Tracks, devices: Sequence[str], origin: int) -> list[Event]:
    """From the step that ended last before a message was sent to the first step after it arrived."""
    steps = {key: [span for span in track if span.kind == "compute"] for key, track in tracks.items()}
    events: list[Event] = []
    for (stage, device), track in tracks.items():
        own = steps[stage, device]
        starts = [span.start_ns for span in own]
        for span in track:
            if span.kind != "wire":
                continue
            sender = _sending_stage(steps, span, stage)
            used = bisect_left(starts, span.end_ns)
            if sender is None or used == len(own):
                continue
            (from_stage, from_device), made = sender
            flow = len(events) // 2 + 1
            # Inside both slices, so that every viewer binds the arrow to them and to no neighbour.
            at_ns = max(made.start_ns, made.end_ns - 1)
            events.append(_flow("s", flow, devices.index(from_device) + 1, from_stage, at_ns - origin))
            events.append(_flow("f", flow, devices.index(device) + 1, stage, own[used].start_ns - origin))
    return events


def _sending_stage(
    steps: Mapping[tuple[int, str], Sequence[Span]], wire: Span, stage: int
) -> tuple[tuple[int, str], Span] | None:
    """The stage and the step that made a message; the stage before this one where its device has several."""
    keys = [key for key in steps if key[1] == wire.source_device and steps[key]]
    num_stages = 1 + max((index for index, _ in steps), default=0)
    for key in sorted(keys, key=lambda key: (stage - 1 - key[0]) % num_stages):
        last = bisect_right(steps[key], wire.start_ns, key=lambda span: span.end_ns) - 1
        if last >= 0:
            return key, steps[key][last]
    return None


def _slice(span: Span, name: str, pid: int, tid: int, origin: int) -> Event:
    counts = {"tokens": span.num_tokens, "sessions": span.num_sessions, "bytes": span.num_bytes}
    return {
        "ph": "X",
        "name": name,
        "cat": span.kind,
        "pid": pid,
        "tid": tid,
        "ts": (span.start_ns - origin) / 1000,
        "dur": (span.end_ns - span.start_ns) / 1000,
        "args": {key: value for key, value in counts.items() if value},
    }


def _flow(phase: str, flow: int, pid: int, stage: int, ns: int) -> Event:
    event = {"ph": phase, "id": flow, "name": "hop", "cat": "hop", "pid": pid, "tid": stage * _ROWS_PER_STAGE + 1}
    event["ts"] = ns / 1000
    if phase == "f":
        event["bp"] = "e"
    return event


def _counter(name: str, pid: int, ns: int, value: int) -> Event:
    return {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": ns / 1000, "args": {"sessions": value}}


def _name(kind: str, pid: int, tid: int, **args: Any) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args}
