"""`shardnet doctor`: is this machine ready, and what would make it better?"""

from __future__ import annotations

import json as json_format
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from shardnet.launch.console import plain_console
from shardnet.progress import progress_bars

if TYPE_CHECKING:
    from shardnet.launch.doctor.finding import Finding

_MARKS = {"ok": ("ok ", "green"), "warning": ("!  ", "yellow"), "problem": ("NO ", "red")}


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="doctor")(doctor)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False,
) -> None:
    """Look whether this machine can be a device: versions, network, memory, and the threads that pay. Takes seconds."""
    from shardnet.launch.doctor.doctor import examine

    console = plain_console(soft_wrap=True)
    findings: list[Finding] = []
    for finding in examine(partial(progress_bars, enabled=False if json else None)):
        findings.append(finding)
        if not json:
            _show(console, finding)
    ready = all(finding.ok for finding in findings)
    if json:
        found = {
            each.name: {"verdict": each.verdict, "ok": each.ok, "found": each.data, "hints": each.hints}
            for each in findings
        }
        print(json_format.dumps({"ready": ready, **found}))
    else:
        console.print("This machine is ready." if ready else "This machine is not ready: see NO above.")
        if any(finding.verdict == "warning" for finding in findings):
            console.print("What would be better is marked with an exclamation mark.")
    if not ready:
        raise typer.Exit(1)


def _show(console: Console, finding: Finding) -> None:
    sign, style = _MARKS[finding.verdict]
    mark = Text(sign, style=style)
    console.print(mark + Text(f"{finding.name.replace('_', ' '):<17}{finding.text}"))
    for line in finding.table:
        console.print(Text(f"    {line}"))
    for hint in finding.hints:
        console.print(f"    {hint}")
