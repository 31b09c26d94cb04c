"""What a device's allocator keeps and what it gives back, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shardnet.process import allocator

STEPS = """
import resource, sys, threading
import psutil
from shardnet.process.allocator import return_freed, settle_allocator

def step(num_blocks=12):
    return sum(len(bytearray(b"x") * 2**20) for _ in [bytearray(2**20) for _ in range(num_blocks)])

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    step()
    before = faults()
    for _ in range(20):
        step()
    print(faults() - before)
    rss = psutil.Process().memory_info().rss
    stage, above = [bytearray(b"x") * 2**20 for _ in range(64)], bytearray(10)
    full = psutil.Process().memory_info().rss
    stage.clear()
    return_freed()
    print(full - rss, psutil.Process().memory_info().rss - rss)

if sys.argv[1] == "settled":
    settle_allocator()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults_and_growth(how: str) -> tuple[int, int, int]:
    printed = subprocess.run(
        [sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout
    faults, held, kept = map(int, printed.split())
    return faults, held, kept


@pytest.mark.skipif(allocator._glibc() is None, reason="only glibc is told how to keep memory")
def test_steps_do_not_fault_their_memory_in_again_and_a_stage_leaves_none() -> None:
    """Each chunk of a prompt cost every device 18,000 page faults: its thread's heap was unmapped after every step."""
    unsettled, _, _ = faults_and_growth("as it comes")
    settled, held, kept = faults_and_growth("settled")
    assert settled < 1000 < unsettled
    assert held > 40 * 2**20
    assert kept < 8 * 2**20


def test_where_it_is_not_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    allocator.settle_allocator()
    allocator.return_freed()
