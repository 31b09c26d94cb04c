"""How soon chunks may follow each other is what the slowest stage takes, however late guesses come."""

from __future__ import annotations

import pytest

from shardnet.speculation.laps import ENOUGH, FIRST_GAP, FIRST_TRY, LAST_TRY, Laps

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


def test_where_nothing_was_sent_behind_for_a_while_what_that_takes_is_forgotten() -> None:
    """Once it was believed to take a whole lap, nothing was sent behind a chunk any more, and it stayed believed."""
    laps = measured()
    tried_after: list[int] = []
    for _ in range(8):
        sent(laps, 0.0, LAP_S)
        num_laps = 0
        while laps.has_gaps:
            laps.note_lap(1, LAP_S, is_followed=False)
            num_laps += 1
        tried_after.append(num_laps)
        assert laps.gap_s(1) == FIRST_GAP * LAP_S
    assert tried_after == [min(FIRST_TRY << index, LAST_TRY) for index in range(8)]
    sent(laps, 0.0)
    for _ in range(FIRST_TRY - 1):
        laps.note_lap(1, LAP_S, is_followed=False)
    assert laps.gap_s(1) == pytest.approx(SLOWEST_S), "what was fast is forgotten as late as at first, and no sooner"
