"""What is decided when devices leave and come: in any order, and while plans are being loaded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from three_devices import AB, best_plan, three_devices

from shardnet.errors import BadConfiguration
from shardnet.plan import Plan
from shardnet.policy.rebalance import Observed, Policy, without_devices
from shardnet.policy.recovery import (
    Action,
    Course,
    Defer,
    Fail,
    GiveUp,
    Joined,
    Left,
    Load,
    Loaded,
    Looked,
    Noticed,
    Rules,
    Switch,
    handle,
)
from shardnet.simulator import Event, Recovery, simulate
from shardnet.simulator import Load as Asked

PROBLEM = three_devices()
DEVICES = frozenset(PROBLEM.index)
HAPPENINGS = ["leave", "notice", "join", "look", "load"]
RULES = Rules("a", best_plan, Policy(hold_s=0.0, cool_down_s=0.0))


def observed(course: Course, now_s: float, slow: float = 1.0) -> Observed:
    absent = DEVICES - course.members
    return Observed(
        now_s,
        without_devices(PROBLEM, absent),
        device_slowdown={"b": slow},
        past=course.past,
    )


def test_a_plan_that_was_to_mend_the_ring_and_is_given_up_is_made_anew() -> None:
    """Once, c left while the plan that replaced b by it was being loaded: nobody planned again, the ring stood still,
    and the simulated run, in which b asked again and again to join, never ended."""
    course = Course(AB, DEVICES)
    course, actions = handle(1.0, course, Left("b", {"a", "b"}), RULES)
    assert actions == ()
    course, [load] = handle(2.0, course, Noticed("b", observed(course, 2.0), DEVICES - course.members), RULES)
    assert isinstance(load, Load) and load.why == "b is lost" and "c" in load.plan.devices
    course, actions = handle(2.1, course, Joined("b"), RULES)
    assert actions == (Defer("b"),)
    course, actions = handle(2.5, course, Left("c", {"a", "b"}), RULES)
    assert actions == (GiveUp(load.plan, "c is to be part of it"),)
    course, [again] = handle(3.5, course, Noticed("c", observed(course, 3.5), DEVICES - course.members), RULES)
    assert isinstance(again, Load) and set(again.plan.devices) == {"a"}
    course, actions = handle(5.0, course, Loaded(load.plan), RULES)
    assert actions == (), "what was given up is not switched to"
    course, actions = handle(6.0, course, Loaded(again.plan), RULES)
    assert actions == (Switch(again.plan, starts_again=True),)
    course, actions = handle(6.1, course, Joined("b"), RULES)
    assert actions == () and course.members == {"a", "b"}


def test_such_a_run_ends() -> None:
    events = [Event(0.33, "leave", "b"), Event(1.09, "join", "b"), Event(1.46, "leave", "c")]
    result = simulate(PROBLEM, AB, Asked(in_flight=2, new_tokens=200), events, Recovery(best_plan))
    assert result.failed is None and result.num_tokens == 400


def test_what_is_being_loaded_is_kept_where_it_does_without_the_lost_device() -> None:
    """Once, it was loaded from the beginning: the ring stood still for as long as that took."""
    course = Course(AB, DEVICES)
    course, [load] = handle(1.0, course, Looked(observed(course, 1.0, slow=9.0), ()), RULES)
    assert isinstance(load, Load) and "b" not in load.plan.devices
    course, _ = handle(1.5, course, Left("b", {"a", "b"}), RULES)
    course, actions = handle(2.5, course, Noticed("b", observed(course, 2.5), DEVICES - course.members), RULES)
    assert actions == ()
    course, actions = handle(3.0, course, Loaded(load.plan), RULES)
    assert actions == (Switch(load.plan, starts_again=True),)


def test_a_loss_for_which_no_plan_can_be_made_ends_the_run_with_a_sentence() -> None:
    """Once, only what does not fit did; any other error of a planner came out of the policy."""

    def late(_: object) -> Plan:
        raise BadConfiguration("there is no way")

    course, _ = handle(1.0, Course(AB, DEVICES), Left("b", {"a", "b"}), RULES)
    noticed = Noticed("b", observed(course, 2.0), DEVICES - course.members)
    _, actions = handle(2.0, course, noticed, Rules("a", late))
    assert actions == (Fail("there is no way"),)


def test_without_the_source_nothing_goes_on() -> None:
    _, actions = handle(1.0, Course(AB, DEVICES), Left("a", {"a", "b"}), RULES)
    assert actions == (Fail("the source a left, and the prompt with it"),)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["leave", "notice", "join", "look", "load"]), st.sampled_from("bc")), max_size=40
    )
)
def test_whatever_happens(steps: list[tuple[str, str]]) -> None:
    course, loading, unnoticed = Course(AB, DEVICES), [], []
    done: list[Action] = []
    for now_s, (what, device) in enumerate(steps):
        absent = DEVICES - course.members
        if what == "leave" and device in course.members:
            unnoticed.append(device)
            course, actions = handle(now_s, course, Left(device, set(course.plan.devices)), RULES)
        elif what == "notice" and unnoticed:
            course, actions = handle(now_s, course, Noticed(unnoticed.pop(0), observed(course, now_s), absent), RULES)
            assert not course.noticed or course.coming is not None, "a loss that is known is being mended"
        elif what == "join" and device not in course.members:
            course, actions = handle(now_s, course, Joined(device), RULES)
        elif what == "look":
            course, actions = handle(now_s, course, Looked(observed(course, now_s, slow=9.0), absent), RULES)
        elif what == "load" and loading:
            course, actions = handle(now_s, course, Loaded(loading.pop(0)), RULES)
        else:
            continue
        done += actions
        loading += [action.plan for action in actions if isinstance(action, Load)]
        assert course.noticed <= course.broken and not course.broken & course.members
        assert course.coming is None or set(course.coming.devices) <= course.members
    switched = [action.plan.version for action in done if isinstance(action, Switch)]
    assert switched == sorted(set(switched)) and not any(isinstance(action, Fail) for action in done)
    while unnoticed:
        last = Noticed(unnoticed.pop(0), observed(course, 99.0), DEVICES - course.members)
        course, _ = handle(99.0, course, last, RULES)
    if course.coming is not None:
        course, _ = handle(100.0, course, Loaded(course.coming), RULES)
    assert not course.broken and set(course.plan.devices) <= course.members, "it ends with a ring that stands"
