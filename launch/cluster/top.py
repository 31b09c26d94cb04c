"""What `shardnet top` does: looks at a cluster again and again, on a whole screen or as lines of JSON."""

from __future__ import annotations

import json
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from shardnet.errors import ClusterError
from shardnet.launch.cluster.options import TopOptions
from shardnet.launch.cluster.top_view import view
from shardnet.launch.console import plain_console, table_console
from shardnet.process.signals import until_signalled
from shardnet.source.glance import glance

TWICE_S = 1.0
"""Between two looks, where only one is asked for: what went on meanwhile is what it tells."""
QUIT = "q"
Pressed = Callable[[float], str]


def run(folder: Path, how: TopOptions) -> None:
    """Look until a signal comes, or q is pressed.

    Raises:
        JoinFailed: no cluster runs in the folder.
        ClusterError: where it is to be looked at once, and does not answer.
    """
    can_draw = sys.stdout.isatty() and not plain_console().is_dumb_terminal
    if how.once or not (how.json or can_draw):
        _look_once(folder, as_json=how.json)
    elif how.json:
        with until_signalled():
            _tell_all(folder, how.every_s)
    else:
        with until_signalled():
            _draw_all(folder, how.every_s)


def _look_once(folder: Path, *, as_json: bool) -> None:
    glance(folder)
    time.sleep(TWICE_S)
    found, now_s = glance(folder), time.time()
    if as_json:
        _tell(found, now_s)
    else:
        console = table_console()
        console.print(view(found, now_s, 0, console.width))


def _tell_all(folder: Path, every_s: float) -> None:
    while True:
        try:
            found = glance(folder)
        except ClusterError as error:
            _tell({"error": str(error)}, time.time())
        else:
            _tell(found, time.time())
        threading.Event().wait(every_s)


def _tell(found: dict[str, Any], now_s: float) -> None:
    print(json.dumps({"at_s": round(now_s, 3), **found}), flush=True)


def _draw_all(folder: Path, every_s: float) -> None:
    """While the cluster does not answer, what it was last stays there, with the reason."""
    console = plain_console()
    last: dict[str, Any] | None = None
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            why = ""
            try:
                last = glance(folder)
            except ClusterError as error:
                why = str(error)
            live.update(_screen(last, why, console), refresh=True)
            if pressed(every_s).lower() == QUIT:
                return


def _screen(found: dict[str, Any] | None, why: str, console: Console) -> RenderableType:
    """What is wrong comes first: on a small screen there is no room at the end."""
    drawn = [] if found is None else [view(found, time.time(), console.height - 1, console.width)]
    return Group(Text(why, style="bold red"), *drawn) if why else Group(*drawn, Text("q ends", style="dim"))


@contextmanager
def _keys() -> Iterator[Pressed]:
    """Gives a function that waits for a key, and returns it, or nothing when the time is over."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield lambda wait_s: _key(terminal, wait_s)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""


def _key(terminal: int, wait_s: float) -> str:
    """Where the terminal is gone, and nobody ended this with it (nohup), a q."""
    ready, _, _ = select.select([terminal], [], [], wait_s)
    if not ready:
        return ""
    with suppress(OSError):
        return os.read(terminal, 1).decode("latin-1") or QUIT
    return QUIT
