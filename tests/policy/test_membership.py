"""Who is present, suspected, lost: decided from what was heard and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardnet.policy.membership import (
    Action,
    Broken,
    Came,
    Doubted,
    Ended,
    Event,
    Heard,
    Limits,
    Members,
    Passed,
    handle,
    present,
)

LIMITS = Limits(ask_every_s=1.0, suspect_after_s=2.0, lost_after_s=30.0, grace_s=0.5)
DEVICES = ("phone", "laptop")

Done = list[tuple[float, Action]]


def play(
    *script: tuple[float, Event], devices: tuple[str, ...] = DEVICES
) -> tuple[Members, list[tuple[float, Action]]]:
    """What is known after a script of events, and what was to be done when."""
    members = present(devices, 0.0, LIMITS)
    done: Done = []
    for now_s, event in script:
        members, actions = handle(now_s, members, event, LIMITS)
        done += [(now_s, action) for action in actions]
    return members, done


def looks(until_s: float, every_s: float = 0.25) -> list[tuple[float, Event]]:
    return [(every_s * step, Passed()) for step in range(1, int(until_s / every_s) + 1)]


def of_kind(done: Done, kind: str, device: str = "phone") -> list[tuple[float, str]]:
    return [(at_s, action.why) for at_s, action in done if (action.kind, action.device) == (kind, device)]


def test_who_is_silent_is_suspected_soon_and_lost_late() -> None:
    members, done = play(*looks(40), devices=("phone",))
    assert [at_s for at_s, _ in of_kind(done, "ask")] == [float(second) for second in range(1, 31)]
    assert of_kind(done, "suspect") == [(3.0, "it has been silent for 2 s")]
    assert of_kind(done, "lose") == [(31.0, "it has not answered for 30 s")]
    assert members["phone"].status == "lost"


def test_who_is_heard_again_is_trusted_again() -> None:
    script = [*looks(20), (20.1, Heard("phone")), *[(20 + at_s, event) for at_s, event in looks(20)]]
    _, done = play(*script, devices=("phone",))
    assert of_kind(done, "trust") == [(20.1, "")]
    assert [at_s for at_s, _ in of_kind(done, "suspect")] == [3.0, 23.0], "its silence began anew"
    assert of_kind(done, "lose") == []


def test_a_lost_question_loses_nobody() -> None:
    """Once, one question was out at a time: where it was lost, a living device was lost after 30 s."""
    script = looks(25)
    script += [(at_s + 0.1, Heard("phone")) for at_s in (2, 3, 4)]
    _, done = play(*sorted(script, key=lambda row: row[0]), devices=("phone",))
    assert of_kind(done, "lose") == [] and of_kind(done, "suspect") == [(7.0, "it has been silent for 2 s")]


def test_a_broken_connection_waits_a_moment_for_how_the_process_ended() -> None:
    _, done = play((1.0, Broken("phone")), (1.2, Passed()), (1.3, Ended("phone", "it was killed by SIGKILL")))
    assert of_kind(done, "lose") == [(1.3, "it was killed by SIGKILL")]
    _, done = play((1.0, Broken("phone")), (1.3, Broken("phone")), (1.5, Passed()))
    assert of_kind(done, "lose") == [(1.5, "its connection broke")]


def test_who_answers_after_its_connection_broke_is_not_lost() -> None:
    """Once, the end of one socket lost a device for good, whatever it said afterwards."""
    script = [(0.2, Broken("phone")), (0.4, Heard("phone")), (0.8, Passed()), (1.2, Passed())]
    members, done = play(*script, devices=("phone",))
    assert of_kind(done, "ask")[0] == (0.2, ""), "it is asked at once"
    assert of_kind(done, "lose") == [] and members["phone"].status == "present"
    _, done = play(*script, (2.0, Broken("phone")), (2.6, Passed()), devices=("phone",))
    assert of_kind(done, "lose") == [(2.6, "its connection broke")], "the next time counts from anew"


def test_a_doubted_device_is_asked_at_once_and_believed_after_the_time_of_grace() -> None:
    script = [(0.2, Doubted("phone")), (0.4, Doubted("phone")), (0.6, Passed())]
    _, done = play(*script, (0.65, Heard("phone")), (0.7, Passed()), (2.0, Passed()))
    assert [at_s for at_s, _ in of_kind(done, "ask")][:2] == [0.2, 0.4]
    assert of_kind(done, "believe") == [(0.7, "")]
    _, done = play(*script, (0.7, Passed()), (2.0, Passed()), (2.3, Heard("phone")), (2.4, Passed()))
    assert of_kind(done, "believe") == [(2.4, "")], "of one that is silent, nothing is known"
    _, done = play((0.2, Doubted("phone")), (0.6, Broken("phone")), (0.8, Passed()), (1.1, Passed()))
    assert of_kind(done, "believe") == [] and of_kind(done, "lose") == [(1.1, "its connection broke")]


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 3.0),
            st.sampled_from(
                [
                    Passed(),
                    *(kind(device) for kind in (Heard, Broken, Doubted) for device in (*DEVICES, "nobody")),
                    *(Ended(device, "it ended") for device in DEVICES),
                ]
            ),
        ),
        max_size=60,
    )
)
def test_whatever_happens(steps: list[tuple[float, Event]]) -> None:
    now_s = 0.0
    script = []
    for wait_s, event in steps:
        now_s += wait_s
        script.append((now_s, event))
    members, done = play(*script)
    assert set(members) == set(DEVICES), "nobody appears from nowhere"
    for device in DEVICES:
        mine = [(at_s, action.kind) for at_s, action in done if action.device == device]
        losses = [at_s for at_s, kind in mine if kind == "lose"]
        assert len(losses) == (members[device].status == "lost")
        if losses:
            assert mine[-1][1] == "lose", "nothing is done about a lost device any more"
            assert all(len(action.why) > 5 for _, action in done if action.kind == "lose")
        told = [kind for _, kind in mine if kind in ("suspect", "trust")]
        assert told == ["suspect", "trust"] * (len(told) // 2) + ["suspect"] * (len(told) % 2)
        num_doubts = sum(isinstance(event, Doubted) and event.device == device for _, event in script)
        assert sum(kind == "believe" for _, kind in mine) <= num_doubts
        bad = any(isinstance(event, (Broken, Ended)) and event.device == device for _, event in script)
        assert bad or not losses or now_s >= LIMITS.lost_after_s


def test_who_comes_under_a_known_name_begins_anew() -> None:
    """Also while the one before it is still doubted: what was known of it says nothing of the newcomer."""
    script = [(0.1, Ended("phone", "its process ended")), (0.2, Came("phone")), *looks(20, 0.5)]
    members, done = play(*script, (20.1, Heard("phone")))
    assert of_kind(done, "lose") == [(0.1, "its process ended")]
    assert [at_s for at_s, _ in of_kind(done, "suspect")] == [3.5], "it was asked a second after it came"
    assert members["phone"].status == "present"
    doubted, _ = play((0.0, Broken("phone")), (0.1, Came("phone")), (0.6, Passed()))
    assert doubted["phone"] == play((0.1, Came("phone")))[0]["phone"]
    assert play((0.0, Came("tablet")))[0].keys() == {*DEVICES, "tablet"}
