"""How a cluster is just now, as it is drawn on a whole screen. Pure."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardnet.foreign.quoting import counted
from shardnet.launch.console import size

MOST_SESSIONS = 5
LEAST_EVENTS = 3
_AROUND_TABLE = 4
"""Lines of a table beside its rows."""


def view(status: dict[str, Any], now_s: float, height: int) -> RenderableType:
    """What is drawn.

    Args:
        status: as `shardnet.source.glance` gives it.
        now_s: since 1970.
        height: lines that there are.
    """
    sessions = [_about_session(each) for each in status["sessions"][:MOST_SESSIONS]]
    hidden = len(status["sessions"]) - len(sessions)
    if hidden > 0:
        sessions.append(f"and {counted(hidden, 'more')}" if hidden > 1 else "and one more")
    num_used = 2 + len(status["members"]) + _AROUND_TABLE + len(sessions) + 1
    events = status["events"][-max(LEAST_EVENTS, height - num_used) :]
    return Group(
        Text(_headline(status, now_s), style="bold", no_wrap=True, overflow="ellipsis"),
        _members(status),
        *(Text(line, no_wrap=True, overflow="ellipsis") for line in sessions),
        *(Text(_about_event(each), style="dim", no_wrap=True, overflow="ellipsis") for each in events),
    )


def _headline(status: dict[str, Any], now_s: float) -> str:
    model = f"{status['model']} (plan {status['plan_version']})" if status["model"] else "no model"
    if status["loading"]:
        model = f"loading {status['loading']}"
    rate = "?" if status["tokens_per_s"] is None else f"{status['tokens_per_s']:.1f}"
    sessions = counted(len(status["sessions"]), "sessions")
    return f"{model}   {rate} tokens/s   {sessions}   {time.strftime('%H:%M:%S', time.localtime(now_s))}"


def _members(status: dict[str, Any]) -> Table:
    stages: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for stage in status["stages"]:
        stages[stage["device"]].append(stage)
    columns = {
        "device": lambda member: member["name"],
        "state": lambda member: member["state"],
        "units": lambda member: ", ".join(map(_units, member["units"])),
        "compute": lambda member: _shares(stages[member["name"]], "compute_share"),
        "wire": lambda member: _shares(stages[member["name"]], "wire_share"),
        "idle": lambda member: _shares(stages[member["name"]], "idle_share"),
        "memory": lambda member: _size(member["memory_bytes"]),
        "free": lambda member: _size(member["memory_usable_bytes"]),
        "battery": _battery,
        "temperature": lambda member: _number(member.get("temperature_c"), " °C"),
    }
    rows = [{name: cell(member) for name, cell in columns.items()} for member in status["members"]]
    shown = [name for name in columns if name in ("device", "state") or any(row[name] for row in rows)]
    table = Table()
    for name in shown:
        table.add_column(name, justify="left" if name in ("device", "state") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in shown))
    return table


def _units(ends: list[int]) -> str:
    first, last = ends
    return f"{first}-{last}" if first < last else str(first)


def _shares(stages: list[dict[str, Any]], name: str) -> str:
    return ", ".join("?" if each[name] is None else f"{each[name]:.0%}" for each in stages)


def _size(num_bytes: int | None) -> str:
    return "?" if num_bytes is None else size(num_bytes)


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.0f}{unit}"


def _battery(member: dict[str, Any]) -> str:
    left = _number(member.get("battery_percent"), "%")
    return f"{left}, charging" if left and member.get("is_charging") else left


def _about_session(session: dict[str, Any]) -> str:
    prompt, answer = counted(session["prompt_tokens"], "tokens"), counted(session["num_tokens"], "tokens")
    return f"{session['source']}: {prompt} of prompt, {answer} of answer, since {session['age_s']:.0f} s"


def _about_event(event: dict[str, Any]) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(event['at_s']))}  {event['text']}"
