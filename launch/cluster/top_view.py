"""How a cluster is just now, as it is drawn on a whole screen. Pure."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardnet.foreign.quoting import counted
from shardnet.launch.cluster.tables import guessed, health_of, memory_of, table_of, who

MOST_SESSIONS = 5
LEAST_EVENTS = 3
_AROUND_TABLE = 4
"""Lines of a table beside its rows."""


def view(status: dict[str, Any], now_s: float, height: int, width: int) -> RenderableType:
    """What is drawn.

    Args:
        status: as `shardnet.source.glance` gives it.
        now_s: since 1970.
        height, width: lines that there are, and characters in one.
    """
    sessions = [_about_session(each) for each in status["sessions"][:MOST_SESSIONS]]
    hidden = len(status["sessions"]) - len(sessions)
    if hidden > 0:
        sessions.append(f"and {counted(hidden, 'more')}" if hidden > 1 else "and one more")
    num_used = 2 + len(status["members"]) + _AROUND_TABLE + len(sessions) + 1
    events = status["events"][-max(LEAST_EVENTS, height - num_used) :]
    return Group(
        Text(_headline(status, now_s), style="bold", no_wrap=True, overflow="ellipsis"),
        _members(status, width),
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


def _members(status: dict[str, Any], width: int) -> Table:
    stages: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for stage in status["stages"]:
        stages[stage["device"]].append(stage)
    return table_of([_row(member, stages[member["name"]]) for member in status["members"]], width)


def _row(member: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, str]:
    shares = {what: _shares(stages, f"{what}_share") for what in ("compute", "wire", "idle")}
    return {**who(member), **shares, **memory_of(member), **health_of(member)}


def _shares(stages: list[dict[str, Any]], name: str) -> str:
    return ", ".join("?" if each[name] is None else f"{each[name]:.0%}" for each in stages)


def _about_session(session: dict[str, Any]) -> str:
    prompt, answer = counted(session["prompt_tokens"], "tokens"), counted(session["num_tokens"], "tokens")
    return (
        f"{session['source']}: {prompt} of prompt, {answer} of answer, for {session['age_s']:.0f} s{guessed(session)}"
    )


def _about_event(event: dict[str, Any]) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(event['at_s']))}  {event['text']}"
