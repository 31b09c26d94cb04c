"""Weights make room for hops: none are given just before a step ends, and not for long."""

from __future__ import annotations

import threading

import pytest

from shardnet.shipping.courtesy import AFTER_S, LATE_S, LEAD_S, MOST_WAIT_S, SHARE, Courtesy

STEP_S = 0.03
LAP_S = 0.1


@pytest.fixture
def courtesy() -> Courtesy:
    """Towards a stage that has taken some steps, one each `LAP_S`; the next one begins at 0."""
    courtesy = Courtesy()
    for number in range(-8, 0):
        step(courtesy, number * LAP_S)
    return courtesy


def step(courtesy: Courtesy, began_s: float, lasted_s: float = STEP_S) -> None:
    courtesy.step_begins(began_s)
    courtesy.step_ends(began_s + lasted_s)


def test_nothing_is_given_from_a_little_before_a_step_ends_until_its_hop_has_left(courtesy: Courtesy) -> None:
    assert courtesy.wait_s(-0.001) == 0.0
    courtesy.step_begins(0.0)
    assert courtesy.wait_s(STEP_S - LEAD_S - 0.001) == 0.0
    assert courtesy.wait_s(STEP_S - LEAD_S + 0.001) == pytest.approx(LEAD_S - 0.001)
    assert 0 < courtesy.wait_s(STEP_S + 0.001) <= LATE_S
    courtesy.step_ends(STEP_S + 0.002)
    assert courtesy.wait_s(STEP_S + 0.002) == pytest.approx(AFTER_S)
    assert courtesy.wait_s(STEP_S + 0.002 + AFTER_S) == 0.0


def test_a_step_that_takes_long_is_not_waited_for(courtesy: Courtesy) -> None:
    """Such as one with a prompt."""
    courtesy.step_begins(0.0)
    assert courtesy.wait_s(STEP_S) > 0
    assert courtesy.wait_s(STEP_S + LATE_S + 0.001) == 0.0
    courtesy.step_ends(1.0)
    step(courtesy, 1.1)
    courtesy.step_begins(1.2)
    assert courtesy.wait_s(1.2 + STEP_S - LEAD_S - 0.001) == 0.0, "one that was long is no measure"
    assert courtesy.wait_s(1.2 + STEP_S - LEAD_S + 0.001) > 0


def test_weights_flow_where_steps_follow_each_other_at_once() -> None:
    courtesy = Courtesy()
    waited_s, now_s, end_s = 0.0, 0.0, 2.0
    courtesy.step_begins(0.0)
    began_s = 0.0
    while now_s < end_s:
        wait_s = courtesy.wait_s(now_s)
        waited_s += wait_s
        now_s += wait_s or 0.0005
        if now_s >= began_s + LEAD_S / 2:
            courtesy.step_ends(now_s)
            courtesy.step_begins(now_s)
            began_s = now_s
    assert 0 < waited_s <= SHARE * end_s + MOST_WAIT_S


def test_stages_of_one_device_are_told_apart(courtesy: Courtesy) -> None:
    """Each has a thread, and steps that take as long as its own."""
    both = threading.Thread(target=lambda: [step(courtesy, number * LAP_S, 2 * STEP_S) for number in range(-8, 0)])
    both.start()
    both.join()
    courtesy.step_begins(0.0)
    assert courtesy.wait_s(STEP_S - LEAD_S + 0.001) > 0


def test_a_device_without_stages_gives_at_once() -> None:
    courtesy = Courtesy()
    assert courtesy.wait_s(5.0) == 0.0
    courtesy.step_begins(6.0)
    assert courtesy.wait_s(6.0) == 0.0, "how long it takes is not known"
    courtesy.step_ends(6.1)
    assert courtesy.wait_s(6.1) == 0.0
