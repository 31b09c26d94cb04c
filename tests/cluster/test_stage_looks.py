"""How fast a stage is, is told by steps without guesses, as long as there are some."""

from __future__ import annotations

from shardnet.cluster.stage_looks import ENOUGH_GUESSED, work_since
from shardnet.plan import StagePlan
from shardnet.policy.observing import LEAST_STEPS, Work
from shardnet.timeline.recorder import Recorder, Totals

PLAN = StagePlan("a", 0, 3)
STEP_NS = 1_000_000


def told(num_plain: int, num_guessed: int) -> Totals:
    """Steps of one token take a millisecond, and those of five, of which four are guessed, three."""
    recorder = Recorder("a", 0)
    for _ in range(num_plain):
        recorder.compute(0, STEP_NS, num_tokens=1, num_sessions=1)
    for _ in range(num_guessed):
        recorder.compute(0, 3 * STEP_NS, num_tokens=5, num_sessions=1, has_guesses=True)
    return recorder.totals()


def test_steps_with_guesses_do_not_count() -> None:
    work = work_since(PLAN, told(2, 3), told(2 + LEAST_STEPS, 40))
    assert work is not None and work._replace(compute_s=0.0) == Work(PLAN, 0.0, LEAST_STEPS, LEAST_STEPS)
    assert abs(work.compute_s - LEAST_STEPS * 1e-3) < 1e-9


def test_they_do_where_there_are_hardly_others() -> None:
    assert work_since(PLAN, told(0, 0), told(1, ENOUGH_GUESSED - 1)) is None
    work = work_since(PLAN, told(0, 0), told(1, ENOUGH_GUESSED))
    assert work is not None and (work.num_steps, work.num_tokens) == (ENOUGH_GUESSED + 1, 5 * ENOUGH_GUESSED + 1)


def test_a_stage_that_became_another_ones_part_brings_its_guesses_along() -> None:
    recorder, other = Recorder("a", 0), Recorder("b", 1)
    other.compute(0, STEP_NS, num_tokens=5, num_sessions=1, has_guesses=True)
    recorder.absorb(other)
    totals = recorder.totals()
    assert (totals.guessed_s, totals.num_guessed_steps, totals.num_guessed_tokens) == (1e-3, 1, 5)
    recorder.reset()
    assert recorder.totals().num_guessed_steps == 0
