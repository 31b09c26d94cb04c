"""Weights in huge pages, where the system has them for the asking: a token reads all weights, and finds them sooner.

Of a process that asks for nothing, Linux has memory in pages of 4 KiB, each of which is looked up; and no processor
fetches ahead beyond the end of one. Only what lies between two borders of huge pages is asked for, so that no memory
is taken beside. Where the system has none (Android mostly, macOS, containers that say so), nothing happens.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from shardnet.process.c_library import c_library

_ADVICE = 14
"""MADV_HUGEPAGE of Linux."""
_SIZE_FILE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


def ask_for_huge_pages(address: int, num_bytes: int) -> None:
    """Have this memory in huge pages, as far as it is whole ones. To be called before anything is written to it."""
    size, libc = _size(), c_library("madvise")
    if not size or libc is None:
        return
    first = -(-address // size) * size
    end = (address + num_bytes) // size * size
    if first < end:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _ADVICE)


@cache
def _size() -> int:
    """Of a huge page; 0 where there are none."""
    try:
        return int(_SIZE_FILE.read_text())
    except (OSError, ValueError):
        return 0
