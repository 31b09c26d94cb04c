"""Keeps a phone awake while it is a device: with its screen dark it would stop computing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    if not _is_done(LOCK):
        may_sleep()
    try:
        yield
    finally:
        _is_done(UNLOCK)


def _is_done(command: str) -> bool:
    try:
        done = subprocess.run(
            [command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_S,
            check=False,
            start_new_session=True,  # Ctrl-C is not meant for it
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
