"""Importing what takes seconds, and ending after it, without looking through all of it for garbage."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from shardnet.process.signals import raised_behind


@contextmanager
def importing() -> Iterator[None]:
    """In this block the garbage collector rests: it finds nothing in modules that are imported, and takes a tenth of
    the time. No Ctrl-C is lost in it: modules that look whether others are there take it to mean that they are not."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        with raised_behind():
            yield
    finally:
        if was_on:
            gc.enable()


def end_quickly() -> None:
    """When this process ends, do not look for garbage in what the system takes back anyway: 0.6 s with torch."""
    atexit.register(gc.freeze)
