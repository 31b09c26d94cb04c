"""How the C library of a device, and of a coordinator, keeps freed memory: what a step needs stays, the rest goes back.

As glibc comes, a compute thread allocates in a heap of its own that is unmapped whenever it is empty: each chunk of a
prompt pays for thousands of page faults again (8% of a device's time with a model of 135M). And freed tensors of up to
32 MiB are kept for good, and so is what threads that come and go leave in heaps of their own: a coordinator grew by
0.2 MiB with every device that came and left. Elsewhere (Android, macOS) the allocators return memory by themselves:
nothing is done.
"""

from __future__ import annotations

from typing import Any

from shardnet.process.c_library import c_library

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
MAPPED_BYTES = 4 << 20
"""Blocks of this size and above are mapped one by one and returned when they are freed, as most weights are."""
KEPT_BYTES = 32 << 20
"""Free memory at the heap's end that stays: more than the hidden states and logits of a step take."""


def settle_allocator() -> None:
    """Set this process up as a device or a coordinator. To be called before there are threads that allocate."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def return_freed() -> None:
    """Give all freed memory back to the machine, wherever in the heap it lies. Takes some milliseconds."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library, where it is glibc; else None."""
    return c_library("gnu_get_libc_version", "mallopt", "malloc_trim")
