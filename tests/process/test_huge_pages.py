"""Weights lie in huge pages where the system has them, and take no more memory for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MIB = 1 << 20
ASK = """
import ctypes, mmap, sys
import psutil
from shardnet.process.huge_pages import ask_for_huge_pages

num_bytes, offset = int(sys.argv[1]), int(sys.argv[2])
memory = mmap.mmap(-1, num_bytes + offset + 64 * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + offset
def taken():
    return psutil.Process().memory_info().rss
before = taken()
ask_for_huge_pages(address, num_bytes)
ctypes.memset(address, 1, num_bytes)
huge = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
print(huge << 10, taken() - before, ctypes.string_at(address, num_bytes).count(b"\\1"))
"""


def asked(num_bytes: int, offset: int) -> list[int]:
    command = [sys.executable, "-c", ASK, str(num_bytes), str(offset)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [int(each) for each in done.stdout.split()]


@pytest.mark.skipif(not ENABLED.exists(), reason="needs Linux")
@pytest.mark.parametrize("offset", [0, 16, 4096 + 16, 3 * MIB + 16])
def test_no_more_memory_is_taken_than_was_asked_for(offset: int) -> None:
    num_bytes = 33 * MIB + 48
    huge, taken, num_right = asked(num_bytes, offset)
    assert num_right == num_bytes
    assert taken <= num_bytes + 2 * MIB, "the interpreter's own, too"
    if ENABLED.exists() and "[never]" not in ENABLED.read_text():
        assert huge % (2 * MIB) == 0 and huge <= num_bytes


@pytest.mark.skipif(not ENABLED.exists() or "[never]" in ENABLED.read_text(), reason="there are no huge pages here")
def test_large_weights_lie_in_huge_pages() -> None:
    huge, _, _ = asked(64 * MIB, 16)
    assert huge > 0


@pytest.mark.skipif(not ENABLED.exists(), reason="needs Linux")
def test_what_is_less_than_a_huge_page_is_left_alone() -> None:
    huge, _, num_right = asked(MIB, 4096)
    assert (huge, num_right) == (0, MIB)
