"""How soon chunks may follow each other is what the slowest stage takes, however late guesses come."""

from __future__ import annotations

import pytest

from shardnet.speculation.laps import ENOUGH, FIRST_GAP, Laps

LAP_S, SLOWEST_S = 0.2, 0.02


def measured() -> Laps:
    laps = Laps()
    for _ in range(ENOUGH):
        laps.note_lap(1, LAP_S, is_followed=False)
    return laps


def sent(laps: Laps, apart_s: float, slowest_s: float = SLOWEST_S) -> None:
    """Two chunks, one behind the other, through a ring whose slowest stage takes so long for each."""
    laps.note_gap(1, max(apart_s, slowest_s), apart_s)


def test_what_was_sent_late_does_not_make_a_ring_slow() -> None:
    laps = measured()
    for _ in range(50):
        sent(laps, 0.0)
    assert laps.gap_s(1) == pytest.approx(SLOWEST_S)
    for _ in range(50):
        sent(laps, LAP_S / 2)
    assert laps.gap_s(1) == pytest.approx(SLOWEST_S) and laps.depth() == LAP_S / SLOWEST_S


def test_it_is_found_how_soon_chunks_may_follow_each_other() -> None:
    laps = measured()
    assert laps.gap_s(1) == FIRST_GAP * LAP_S
    for _ in range(100):
        sent(laps, laps.next_s(1) - laps.sent_s)
    assert laps.gap_s(1) == pytest.approx(SLOWEST_S, rel=0.1)


def test_a_ring_that_becomes_slow_is_noticed() -> None:
    laps = measured()
    for _ in range(50):
        sent(laps, 0.0)
    for _ in range(100):
        sent(laps, laps.next_s(1) - laps.sent_s, 0.08)
    assert laps.gap_s(1) == pytest.approx(0.08, rel=0.1)
