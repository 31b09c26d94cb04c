"""How a cluster is, as a table that a person can read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from shardnet.foreign.quoting import counted
from shardnet.launch.console import size, table_console
from shardnet.process.lasting import as_option
from shardnet.trust.names import COORDINATOR

NOTHING = "-"
"""Of what is told nowhere, there is no column."""
LEAST_WANTED = (
    *("threads", "sessions", "wire", "idle", "degrees", "free"),
    *("memory", "compute", "battery", "units", "state"),
)
"""Columns in the order in which they are left out where the screen is narrow, as that of a phone."""
_BESIDE_A_CELL = 3
"""A line and two gaps."""


def show_status(status: dict[str, Any], folder: Path) -> None:
    """Print what `glance` gives of the cluster in a folder."""
    console = table_console()
    console.print(_about_the_model(status), soft_wrap=True)
    if status["members"]:
        console.print(_devices(status["members"], console.width))
    else:
        console.print(f"No device has joined. Let one join: shardnet join{as_option(folder)}", soft_wrap=True)
    for member in status["members"]:
        if member["state"] == "paused":
            console.print(f"{member['name']} pauses: {member['why']}.", soft_wrap=True)
    for stage in status["stages"]:
        if stage["sent_as"]:
            text = f"{stage['device']} sends what comes out of unit {stage['last_unit']} as {stage['sent_as']}."
            console.print(text, soft_wrap=True)
    for session in status["sessions"]:
        console.print(_about(session), soft_wrap=True)
    for broken in status["broken_off"]:
        console.print(_about_broken(broken, folder), soft_wrap=True)


def show_trusted(entries: list[dict[str, Any]]) -> None:
    """Print what a gate says of the machines that have a certificate."""
    table = Table(title_justify="left")
    for heading in ("machine", "state", "until"):
        table.add_column(heading)
    for entry in entries:
        until = time.strftime("%Y-%m-%d", time.localtime(entry["until_s"]))
        table.add_row(entry["name"], _how_it_is(entry), until)
    table_console().print(table)


def _how_it_is(entry: dict[str, Any]) -> str:
    if entry["name"] == COORDINATOR:  # to which the others are linked
        return "coordinates"
    return "linked" if entry["is_linked"] else "away"


def _devices(members: list[dict[str, Any]], width: int) -> Table:
    return table_of([_row(member) for member in members], width)


def table_of(rows: list[dict[str, str]], width: int) -> Table:
    """Of devices: the columns of which any of them tells something, as far as they have room."""
    table = Table(title_justify="left")
    names = [name for name in rows[0] if any(row[name] not in ("", NOTHING) for row in rows)] if rows else []
    for name in LEAST_WANTED:
        if name in names and _width(names, rows) > width:
            names.remove(name)
    for name in names:
        table.add_column(name, justify="left" if name in ("device", "state") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))
    return table


def _width(names: list[str], rows: list[dict[str, str]]) -> int:
    widths = [max(cell_len(name), *(cell_len(row[name]) for row in rows)) for name in names]
    return sum(widths) + _BESIDE_A_CELL * len(widths) + 1


def _about_broken(broken: dict[str, Any], folder: Path) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(broken["at_s"]))
    tokens = f"{broken['num_tokens']} of at most {counted(broken['max_new_tokens'], 'tokens')}"
    prompt = counted(broken["prompt_tokens"], "tokens")
    command = f"shardnet resume {broken['number']}{as_option(folder)}"
    return f"An answer of {broken['model']['name']} broke off at {when} after {tokens} ({prompt} of prompt): {command}"


def _row(member: dict[str, Any]) -> dict[str, str]:
    threads = member["num_threads"]
    return {
        **who(member),
        **memory_of(member),
        "threads": "?" if threads is None else str(threads),
        "sessions": str(member["num_sessions"]),
        **health_of(member),
    }


def guessed(session: dict[str, Any]) -> str:
    """How many guesses of an answer were right; empty where none were checked."""
    checked = session["guesses_checked"]
    return f", {session['guesses_right']} of {checked} guesses right" if checked else ""


def who(member: dict[str, Any]) -> dict[str, str]:
    """What a device is called, how it is, what it holds."""
    units = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in member["units"])
    return {"device": member["name"], "state": member["state"], "units": units or NOTHING}


def memory_of(member: dict[str, Any]) -> dict[str, str]:
    """What a device's process holds, and what it may take besides."""
    memory, free = member["memory_bytes"], member["memory_usable_bytes"]
    return {"memory": "?" if memory is None else size(memory), "free": "?" if free is None else size(free)}


def health_of(member: dict[str, Any]) -> dict[str, str]:
    """Its battery, as "81%", and "81%+" while it is being charged, and how hot it is."""
    percent, degrees = member["battery_percent"], member["temperature_c"]
    battery = NOTHING if percent is None else f"{percent:.0f}%{'+' if member['is_charging'] else ''}"
    return {"battery": battery, "degrees": NOTHING if degrees is None else f"{degrees:.0f}"}


def _about_the_model(status: dict[str, Any]) -> str:
    model, version, num_sessions = status["model"], status["plan_version"], len(status["sessions"])
    if status["loading"]:
        return f"{status['loading']} is being loaded."
    if model:
        return f"{model} is loaded (plan {version}); {counted(num_sessions, 'sessions')}."
    return f"No model is loaded. {status['why_none']}".strip()


def _about(session: dict[str, Any]) -> str:
    return (
        f"{session['source']} has been asking for {session['age_s']:.0f} s: "
        f"{counted(session['prompt_tokens'], 'tokens')} of prompt, {session['num_tokens']} of answer so far"
        f"{guessed(session)}"
    )
