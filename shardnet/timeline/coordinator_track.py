"""What happened to a model, as a process of its own in a trace: marks, and how long each change took. Pure."""

from __future__ import annotations

from typing import Any

from shardnet.timeline.history import RECOVERY, SWITCH, History

_ROWS = {"events": 1, RECOVERY: 2, SWITCH: 3}


def coordinator_events(history: History, pid: int, origin_ns: int) -> list[dict[str, Any]]:
    """Trace events of what happened from `origin_ns` on, which is time 0."""
    history = history.since(origin_ns)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "ts": 0, "args": {"name": "coordinator"}},
        {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "ts": 0, "args": {"sort_index": 0}},
    ]
    for name, tid in _ROWS.items():
        events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "ts": 0, "args": {"name": name}})
    events.append(_plan(history.plan_version, history.num_devices, pid, 0))
    for event in history.events:
        at_us = (history.at_ns(event) - origin_ns) / 1000
        args = {"text": event.text} | ({"device": event.device} if event.device else {})
        name = f"{event.device} {event.event}".strip()
        mark = {"ph": "i", "s": "g", "name": name, "cat": "event", "pid": pid, "tid": _ROWS["events"]}
        events.append({**mark, "ts": at_us, "args": args})
        events.append(_plan(event.plan_version, event.num_devices, pid, at_us))
    for change in history.changes():
        start_ns = max(change.start_ns, origin_ns)
        piece = {"ph": "X", "name": change.kind, "cat": "change", "pid": pid, "tid": _ROWS[change.kind]}
        piece["ts"], piece["dur"] = (start_ns - origin_ns) / 1000, (change.end_ns - start_ns) / 1000
        events.append({**piece, "args": {"text": change.event.text}})
    return events


def _plan(version: int, num_devices: int, pid: int, us: float) -> dict[str, Any]:
    args = {"version": version, "devices": num_devices}
    return {"ph": "C", "name": "plan", "pid": pid, "tid": 0, "ts": us, "args": args}
