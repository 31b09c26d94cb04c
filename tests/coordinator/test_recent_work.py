"""What stages did in the last seconds, from what they have counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from lasting_in_process import lasting_in_process
from processes import wait_until

from shardnet.coordinator.recent_work import LEAST_S, MOST_S, WINDOW_S, Look, RecentWork, shares_between
from shardnet.timeline.clocks import ClockOffset
from shardnet.timeline.recorder import Totals
from shardnet.transport.in_process.network import InProcessNetwork

LEVEL = {"phone": ClockOffset(0, 0), "laptop": ClockOffset(0, 0)}


def totals(compute_s: float, wire_s: float, num_steps: int = 10) -> Totals:
    return Totals("phone", 1, compute_s, 0.0, wire_s, num_steps, messages_from=(("laptop", num_steps, wire_s),))


def test_shares_are_those_since_the_look_before() -> None:
    before, now = Look(10.0, 0, (totals(100.0, 50.0),)), Look(12.0, 0, (totals(101.0, 50.5, 20),))
    (share,) = shares_between(before, now, LEVEL)
    assert share is not None and (share.compute, share.wire, share.idle) == pytest.approx((0.5, 0.25, 0.25))


def test_what_clocks_differ_by_is_no_time_on_the_wire() -> None:
    ahead_ns = 1_000_000_000
    before, now = Look(0.0, 0, (totals(0.0, 10.0),)), Look(2.0, 0, (totals(0.0, 20.2, 20),))
    (share,) = shares_between(before, now, {**LEVEL, "phone": ClockOffset(ahead_ns, 0)})
    assert share is not None and share.wire == pytest.approx(0.1)


def test_nothing_is_said_of_a_stage_that_was_not_looked_at_twice_or_counts_anew() -> None:
    one, other = totals(0.0, 0.0), totals(1.0, 0.0, 5)
    for before, now in (((None,), (one,)), ((one,), (None,)), ((one,), (other,)), ((), (one,))):
        assert shares_between(Look(0.0, 0, before), Look(1.0, 0, now), LEVEL) == (None,)
    assert shares_between(Look(0.0, 0, (other,)), Look(1.0, 0, (one,)), None) == (None,), "clocks are not known yet"


def test_tokens_per_second_since_a_look_some_seconds_ago() -> None:
    work = RecentWork(InProcessNetwork().join("coordinator"))

    def rate(at_s: float, num_tokens: int) -> float | None:
        return work.look(None, Look(at_s, num_tokens, ()))[0]

    assert rate(100.0, 5) is None
    assert rate(100.0 + LEAST_S / 2, 7) is None, "too soon to tell"
    assert rate(102.0, 25) == pytest.approx(10.0)
    assert rate(100.0 + WINDOW_S, 55) == pytest.approx(10.0)
    assert rate(102.0 + WINDOW_S, 125) == pytest.approx(20.0), "since the look at 102 s, and not the one before"
    assert rate(200.0 + MOST_S, 1000) is None, "what was before is long ago"


def test_a_status_tells_what_both_stages_of_a_ring_do(tiny: Path) -> None:
    with lasting_in_process() as cluster:
        source = cluster.connect()
        model = source.load(tiny, dtype="float32", split=[3, 3])
        first = cluster.coordinator.status()
        assert [(stage.device, stage.compute_share) for stage in first.stages] == [("a", None), ("b", None)]
        with model.stream("Hello", max_new_tokens=3000) as stream:
            next(stream)

            def is_told() -> bool:
                status = cluster.coordinator.status()
                shares = [(each.compute_share, each.wire_share, each.idle_share) for each in status.stages]
                return bool(status.tokens_per_s) and all(None not in each and sum(each) > 0.99 for each in shares)

            wait_until(is_told)
        assert [each.event for each in source.status().events if each.event == "loaded"] == ["loaded"]
