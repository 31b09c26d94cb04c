"""Which number of threads pays: one rule, whoever asks."""

from __future__ import annotations

import dataclasses

import pytest

from shardnet.profiling.measurement import ThreadTrial
from shardnet.profiling.threads import choose_threads, thread_counts


def test_threads_that_collapse_under_load_are_not_chosen() -> None:
    # What a shared two-core host gave: two threads a little faster alone, forty times slower beside another program.
    alone = ThreadTrial(1, decode_s=1.6, decode_under_load_s=1.6, prefill_s=4.1)
    pair = ThreadTrial(2, decode_s=1.2, decode_under_load_s=68.0, prefill_s=2.2)
    assert choose_threads([alone, pair]) == 1
    robust = dataclasses.replace(pair, decode_under_load_s=1.7)
    assert choose_threads([alone, robust]) == 2
    assert choose_threads([alone, ThreadTrial(2, 1.6, 1.6, 4.0)]) == 1  # not worth a second core


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (8, [1, 2, 3, 4, 6, 8]), (7, [1, 2, 3, 4, 6, 7])]
)
def test_thread_counts(most: int, counts: list[int]) -> None:
    assert thread_counts(most) == counts
