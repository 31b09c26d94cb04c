from __future__ import annotations

import json
import pickle
import random
import threading
from itertools import pairwise
from typing import Any

import pytest

from shardnet.plan import Plan, stages_from_counts
from shardnet.timeline.clocks import ClockOffset, offset_from_pings
from shardnet.timeline.recorder import Recorder, Totals
from shardnet.timeline.timeline import Timeline, shares_from_totals

MS = 1_000_000


def ring_of_two(laps: int = 3, skew_ns: int = 0) -> Timeline:
    """A lap: a computes 4 ms, 1 ms of wire, b computes 2 ms, 1 ms of wire. b's clock is ahead by `skew_ns`."""
    a, b = Recorder("a", 0), Recorder("b", 1)
    a.keep_spans = b.keep_spans = True
    for lap in range(laps):
        at = lap * 8 * MS
        a.compute(at, at + 4 * MS, num_tokens=1, num_sessions=1)
        b.wire(at + 4 * MS, at + 5 * MS + skew_ns, source_device="a", num_bytes=1152, num_sessions=1)
        b.compute(at + 5 * MS + skew_ns, at + 7 * MS + skew_ns, num_tokens=1, num_sessions=1)
        a.wire(at + 7 * MS + skew_ns, at + 8 * MS, source_device="b", num_bytes=8, num_sessions=1)
        a.idle(at + 4 * MS, at + 8 * MS)
    timeline = Timeline({"b": ClockOffset(skew_ns, 1000)})
    timeline.add("b", 1, b.drain())
    timeline.add("a", 0, a.drain())
    return timeline


def test_totals_count_without_keeping_spans() -> None:
    recorder = Recorder("phone", 2)
    recorder.compute(0, 2 * MS, num_tokens=5, num_sessions=2)
    recorder.compute(3 * MS, 4 * MS, num_tokens=2, num_sessions=2)
    recorder.idle(2 * MS, 3 * MS)
    recorder.wire(0, MS, source_device="laptop", num_bytes=100, num_sessions=2)
    totals = recorder.totals()
    assert (totals.compute_s, totals.idle_s, totals.wire_s) == (0.003, 0.001, 0.001)
    assert (totals.num_steps, totals.num_tokens, totals.num_messages, totals.bytes_in) == (2, 7, 1, 100)
    assert recorder.drain() == []
    assert pickle.loads(pickle.dumps(totals)) == totals
    recorder.reset()
    assert recorder.totals() == Totals("phone", 2)


def test_drain_gives_plain_tuples_once_and_counts_what_was_dropped() -> None:
    recorder = Recorder("phone", 0, capacity=3)
    recorder.keep_spans = True
    for step in range(5):
        recorder.compute(step, step + 1, num_tokens=1, num_sessions=1)
    spans = recorder.drain()
    assert spans == [("compute", step, step + 1, 1, 1, 0, "") for step in (2, 3, 4)]
    assert all(type(span) is tuple for span in spans)
    assert recorder.drain() == []
    assert recorder.totals().num_dropped_spans == 2


def test_threads_lose_no_count() -> None:
    recorder = Recorder("phone", 0)

    def receive() -> None:
        for _ in range(2000):
            recorder.wire(0, 10, source_device="laptop", num_bytes=3, num_sessions=1)

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.totals().num_messages == 8000
    assert recorder.totals().bytes_in == 24000


def test_offset_lies_within_its_uncertainty_and_beats_the_shortest_ping() -> None:
    rng = random.Random(1)
    true_offset = 123_456_789
    samples = []
    for ping in range(30):
        there, back = (int(rng.expovariate(1 / 200_000)) + 50_000 for _ in range(2))
        sent = ping * 10 * MS
        samples.append((sent, sent + there + true_offset, sent + there + back))
    offset = offset_from_pings(samples)
    assert abs(offset.offset_ns - true_offset) <= offset.uncertainty_ns
    assert offset.uncertainty_ns <= min(received - sent for sent, _, received in samples) / 2


def test_a_stepped_clock_leaves_the_decision_to_the_shortest_ping() -> None:
    offset = offset_from_pings([(0, 1_000_050, 100), (200, 5_000_210, 220)])
    assert offset == ClockOffset(5_000_000, 10, at_ns=5_000_210)


@pytest.mark.parametrize("samples", [[], [(10, 5, 9)]])
def test_impossible_pings_are_refused(samples: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match="ping"):
        offset_from_pings(samples)


@pytest.mark.parametrize("skew_ns", [0, 7_000_000_000, -3_000_000])
def test_shares_are_exact_whatever_the_clocks_say(skew_ns: int) -> None:
    a, b = ring_of_two(skew_ns=skew_ns).shares()
    run = 23.0  # ms: from the first step's start to the last one's end
    assert (a.device, a.stage, b.device, b.stage) == ("a", 0, "b", 1)
    assert (a.compute, a.wire) == pytest.approx((12 / run, 2 / run))
    assert (b.compute, b.wire) == pytest.approx((6 / run, 3 / run))
    assert a.compute + a.wire + a.idle == pytest.approx(1)


def test_a_stage_that_lost_its_early_spans_does_not_seem_idle() -> None:
    """Once, who had more to tell (many small messages, say) lost more, and the profile showed it as idle meanwhile."""
    timeline = Timeline()
    busy, chatty = Recorder("a", 0), Recorder("b", 1, capacity=40)
    busy.keep_spans = chatty.keep_spans = True
    for step in range(100):
        busy.compute(step * MS, (step + 1) * MS, num_tokens=1, num_sessions=1)
        chatty.compute(step * MS, (step + 1) * MS, num_tokens=1, num_sessions=1)
    for recorder in (busy, chatty):
        timeline.add(recorder.device, recorder.stage, recorder.drain(), recorder.totals().num_dropped_spans)
    assert timeline.bounds_ns == (60 * MS, 100 * MS)
    assert [share.compute for share in timeline.shares()] == [1.0, 1.0]
    assert timeline.what_is_lost == (
        "Spans were dropped, the oldest ones: 60 of stage 1 (b). Shares are those of the last 0.0 s."
    )
    assert ring_of_two().what_is_lost == ""


def test_wire_that_hides_behind_compute_is_not_waited_for() -> None:
    recorder = Recorder("a", 0)
    recorder.keep_spans = True
    recorder.compute(0, 10 * MS, num_tokens=2, num_sessions=2)
    recorder.wire(2 * MS, 5 * MS, source_device="b", num_bytes=1, num_sessions=1)
    recorder.wire(8 * MS, 12 * MS, source_device="b", num_bytes=1, num_sessions=1)
    recorder.compute(16 * MS, 20 * MS, num_tokens=2, num_sessions=2)
    timeline = Timeline()
    timeline.add("a", 0, recorder.drain())
    (share,) = timeline.shares()
    assert (share.compute, share.wire, share.idle) == pytest.approx((0.7, 0.1, 0.2))
    halves = timeline.shares_over_time((0, 10 * MS, 20 * MS))[0, "a"]
    assert [half.compute for half in halves] == pytest.approx([1.0, 0.4])


def test_shares_from_totals_correct_the_clocks() -> None:
    skew = 5_000 * MS
    recorder = Recorder("b", 1)
    recorder.compute(skew, skew + 6 * MS, num_tokens=1, num_sessions=1)
    for _ in range(2):
        recorder.wire(0, skew + MS, source_device="a", num_bytes=1, num_sessions=1)
    totals = recorder.totals()
    share = shares_from_totals(totals, totals.corrected_wire_s({"b": ClockOffset(skew, 0)}), 0.010)
    assert (share.compute, share.wire, share.idle) == pytest.approx((0.6, 0.2, 0.2))
    assert shares_from_totals(Totals("b", 1), 0.0, 0.0).idle == 1.0


def test_a_drifting_clock_is_interpolated() -> None:
    timeline = Timeline({"b": [ClockOffset(100, 0, at_ns=0), ClockOffset(200, 0, at_ns=1000)]})
    timeline.add("b", 0, [("compute", at, at + 1000, 1, 1, 0, "") for at in (-500, 0, 500)])
    starts = [span.start_ns for span in timeline.tracks[0, "b"]]
    assert starts == [-600, -100, 350]
    assert timeline.tracks[0, "b"][2].end_ns == 1300


def check_trace(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """What the trace event format asks of every event; returns the slices."""
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in trace["traceEvents"]:
        assert event["ph"] in {"X", "M", "s", "f", "C", "i"}
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and isinstance(event["name"], str)
        assert isinstance(event["ts"], (int, float)) and event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            rows.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for row in rows.values():
        row.sort()
        assert all(left[1] <= right[0] + 1e-6 for left, right in pairwise(row))
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def test_chrome_trace_has_a_process_per_device_and_arrows_from_step_to_step() -> None:
    plan = Plan(stages_from_counts(["a", "b"], [4, 3]))
    trace = json.loads(json.dumps(ring_of_two(skew_ns=-77 * MS).chrome_trace(plan)))
    slices = check_trace(trace)
    names = {(event["name"], str(event["args"])) for event in trace["traceEvents"] if event["ph"] == "M"}
    assert ("process_name", "{'name': 'a'}") in names
    assert ("process_labels", "{'labels': 'b: stage 1 (units 4-6)'}") in names
    assert {"{'name': 'stage 0 compute'}", "{'name': 'stage 0 wire'}", "{'name': 'stage 0 idle'}"} <= {
        text for name, text in names if name == "thread_name"
    }
    computes = [event for event in slices if event["cat"] == "compute"]
    starts = [event for event in trace["traceEvents"] if event["ph"] == "s"]
    ends = {event["id"]: event for event in trace["traceEvents"] if event["ph"] == "f"}
    assert len(starts) == len(ends) == 5  # six messages; nothing used the last one
    for start in starts:
        end = ends[start["id"]]
        source, target = (
            next(
                step
                for step in computes
                if (step["pid"], step["tid"]) == (arrow["pid"], arrow["tid"])
                and step["ts"] <= arrow["ts"] < step["ts"] + step["dur"]
            )
            for arrow in (start, end)
        )
        assert source["pid"] != target["pid"]
        assert target["ts"] - (source["ts"] + source["dur"]) == pytest.approx(1000)


def test_messages_under_way_together_get_rows_of_their_own() -> None:
    recorder = Recorder("a", 0)
    recorder.keep_spans = True
    for at in (0, 1, 2):
        recorder.wire(at * MS, (at + 2) * MS, source_device="b", num_bytes=1, num_sessions=1)
    timeline = Timeline()
    timeline.add("a", 0, recorder.drain())
    slices = check_trace(timeline.chrome_trace())
    assert len({event["tid"] for event in slices}) == 2


def test_a_device_with_two_stages_is_one_process() -> None:
    timeline = Timeline()
    for stage in (0, 2):
        timeline.add("a", stage, [("compute", stage, stage + 1, 1, 1, 0, "")])
    timeline.add("b", 1, [("compute", 1, 2, 1, 1, 0, "")])
    slices = check_trace(timeline.chrome_trace())
    assert len({event["pid"] for event in slices}) == 2
    assert len({(event["pid"], event["tid"]) for event in slices}) == 3


def test_an_empty_timeline_is_no_error() -> None:
    timeline = Timeline()
    assert timeline.shares() == []
    assert check_trace(timeline.chrome_trace()) == []
