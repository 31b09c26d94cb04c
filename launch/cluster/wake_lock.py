"""Keeps a phone awake while it is a device: with its screen dark it would stop computing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardnet.profiling.termux import run_command

LOCK, UNLOCK = "termux-wake-lock", "termux-wake-unlock"
"""Of Termux, also where it carries another Linux. They need neither the app Termux:API nor a permission."""
COMMAND_S = 5.0


@contextmanager
def awake(may_sleep: Callable[[], object]) -> Iterator[None]:
    """Hold Termux's wake lock while this block runs; nothing where this is no phone.

    It is one for all of Termux: at the end it is given back, whoever else has taken it.

    Args:
        may_sleep: called where it could not be taken.
    """
    if shutil.which(LOCK) is None:
        yield
        return
    taken = run_command(LOCK, COMMAND_S)
    if taken is None or taken.exit_code != 0:
        may_sleep()
    try:
        yield
    finally:
        run_command(UNLOCK, COMMAND_S)
