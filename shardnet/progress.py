"""How far long work is, told to whoever watches: a callback, or bars on the terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from shardnet.process.threads import Errands

Progress = Callable[[str, float, float], None]
"""Called as progress(what, done, total) from any thread; done == total ends the line `what`. What stands behind ": " in
`what` may be another time by time, and the line is the same."""


def silent(what: str, done: float, total: float) -> None:
    """Tell nobody."""


def shown(progress: Progress | None) -> AbstractContextManager[Progress]:
    """A caller's own way to show progress, or bars on the terminal where it is None."""
    return nullcontext(progress) if progress is not None else progress_bars()


@contextmanager
def in_turn(progress: Progress) -> Iterator[Progress]:
    """Another way to tell `progress`, which never waits: one call after another, on a thread that ends with the block.

    Who shows it may wait for as long as he likes, say for a pager that is paused.
    """
    with Errands("shardnet-progress") as errands:
        yield lambda what, done, total: errands.do(partial(progress, what, done, total))


@contextmanager
def progress_bars(*, enabled: bool | None = None) -> Iterator[Progress]:
    """Bars on standard error, one for each `what`; where that is no terminal, a short line as each one ends.

    Args:
        enabled: False tells nobody.
    """
    if enabled is False:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True, markup=False, emoji=False)
    if not sys.stderr.isatty():
        ended: set[str] = set()

        def line(what: str, done: float, total: float) -> None:
            what = line_of(what)
            if done >= total and what not in ended:
                ended.add(what)
                console.print(f"{what}: done", highlight=False)

        yield line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        adding = threading.Lock()

        def show(what: str, done: float, total: float) -> None:
            name = line_of(what)
            with adding:
                if name not in tasks:
                    tasks[name] = bars.add_task(what, total=total)
            bars.update(tasks[name], description=what, completed=done, total=total)

        yield show


def line_of(what: str) -> str:
    """Which line is meant: `what`, without what may be another."""
    return what.partition(": ")[0]
