"""How much of conversations is asked for at once, over quick links and slow ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardnet.device.following import ANSWER_S, HURRIED, LONGEST_S, POLITE, Manner


def asked(manner: Manner, bytes_per_s: float, wait_s: float) -> Iterator[tuple[int, float]]:
    """How much is asked for, and how long each answer takes, where the owner lets it wait for so long."""
    num_bytes = manner.first_bytes
    for _ in range(50):
        answer_s = wait_s + num_bytes / bytes_per_s
        yield num_bytes, answer_s
        num_bytes = manner.next_bytes(num_bytes, answer_s)


@pytest.mark.parametrize("manner", [POLITE, HURRIED])
@pytest.mark.parametrize("bytes_per_s", [6e4, 1e5, 2e5, 5e5, 1e6, 1e7, 1e9])
@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.5])
def test_no_answer_is_late_over_a_slow_link(manner: Manner, bytes_per_s: float, wait_s: float) -> None:
    """Once, links of less than 200 kB/s never carried a copy: each answer was late, and asked for thrice."""
    first_s = wait_s + manner.first_bytes / bytes_per_s
    for num_bytes, answer_s in asked(manner, bytes_per_s, wait_s):
        assert manner.first_bytes <= num_bytes <= manner.most_bytes
        assert answer_s <= max(first_s, LONGEST_S + wait_s) + 1e-6 < ANSWER_S


def test_what_waits_for_long_steps_takes_few_of_them() -> None:
    assert list(asked(POLITE, 1e9, 0.4))[-1][0] > 900_000
    assert list(asked(POLITE, 1e9, 0.0))[-1][0] == POLITE.first_bytes


def test_nothing_is_asked_for_piece_by_piece_while_all_wait() -> None:
    assert [num_bytes for num_bytes, _ in asked(HURRIED, 1e9, 0.001)][1:] == [HURRIED.most_bytes] * 49
