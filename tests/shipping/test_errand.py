"""Which part is asked of whom: whatever holders do, each part comes right and once, and it ends."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.shipping.directory import Directory
from shardnet.shipping.errand import MOST_LIES, MOST_SILENCES, Errand, Order
from shardnet.shipping.pace import FetchPace
from shardnet.shipping.space import Kept, to_remove

SOURCE = "laptop"
HOLDERS = ("a", "b", "c")
FAULTS = ("right", "damaged", "refused", "lost", "silent", "not yet")


def near(source: str, target: str) -> float:
    return 1.0


@settings(max_examples=300, deadline=None)
@given(
    lacking=st.dictionaries(st.sampled_from("RSTU"), st.integers(1, 5), min_size=1),
    holds=st.dictionaries(st.sampled_from("RSTU"), st.sets(st.sampled_from(HOLDERS))),
    conduct=st.fixed_dictionaries({holder: st.lists(st.sampled_from(FAULTS), max_size=12) for holder in HOLDERS}),
    in_flight=st.integers(1, 4),
    picks=st.randoms(use_true_random=False),
)
def test_all_of_it_comes_once_whatever_holders_do(
    lacking: dict[str, int],
    holds: dict[str, set[str]],
    conduct: dict[str, list[str]],
    in_flight: int,
    picks: object,
) -> None:
    """Holders do as they are told, in turn, and right when that is over. The source is honest."""
    directory = Directory(SOURCE)
    for root, holders in holds.items():
        for holder in holders:
            directory.add(holder, [root])
    errand = Errand({root: list(range(number)) for root, number in lacking.items()})
    came: Counter[tuple[str, int]] = Counter()
    failed = 0
    under_way: list[Order] = []
    for _ in range(500):
        for root in errand.nobody_known():
            found = directory.holders("new", root, errand.avoided_for(root), near)
            assert found.holders, "the source has all"
            errand.learn(root, found.holders)
        while len(under_way) < in_flight and (order := errand.next_order()) is not None:
            assert order.holder not in errand.given_up
            assert all((order.root, order.part) != (other.root, other.part) for other in under_way)
            under_way.append(order)
        if not under_way:
            if errand.is_done:
                break
            assert errand.waited_for() or errand.nobody_known(), "something is to be done next"
            errand.look_again()
            continue
        order = under_way.pop(picks.randrange(len(under_way)))  # type: ignore[attr-defined]
        how = conduct[order.holder].pop(0) if conduct.get(order.holder) else "right"
        failed += how != "right"
        if how == "right":
            came[order.root, order.part] += 1
            errand.came(order)
        else:
            fault = {
                "damaged": errand.was_damaged,
                "refused": errand.was_refused,
                "lost": errand.was_lost,
                "silent": errand.was_silent,
                "not yet": errand.is_on_its_way,
            }
            fault[how](order)
    assert errand.is_done and not under_way
    assert came == {(root, part): 1 for root, number in lacking.items() for part in range(number)}
    assert all(lies <= MOST_LIES + in_flight - 1 for lies in errand.lies.values())


def test_a_holder_that_lies_twice_is_asked_no_more() -> None:
    errand = Errand({"R": [0, 1, 2]})
    errand.learn("R", ("a", SOURCE))
    first = errand.next_order()
    assert first == Order("R", 0, "a")
    errand.was_damaged(first)
    assert errand.next_order() == Order("R", 0, SOURCE), "the damaged part comes from another one"
    second = errand.next_order()
    assert second == Order("R", 1, "a")
    errand.was_damaged(second)
    assert errand.next_order() == Order("R", 1, SOURCE)
    assert errand.next_order() == Order("R", 2, SOURCE)


def test_who_did_not_answer_in_time_is_asked_again_where_nobody_else_is_left() -> None:
    errand = Errand({"R": [0, 1, 2]})
    errand.learn("R", ("a", SOURCE))
    silent = errand.next_order()
    assert silent == Order("R", 0, "a")
    errand.was_silent(silent)
    lost = errand.next_order()
    assert lost == Order("R", 0, SOURCE), "as long as there is another one"
    errand.was_lost(lost)
    for _ in range(MOST_SILENCES - 1):
        assert errand.next_order() is None and errand.nobody_known() == ["R"]
        assert errand.try_silent_again() and errand.avoided_for("R") == {SOURCE}
        assert errand.nobody_known() == []
        again = errand.next_order()
        assert again == Order("R", 0, "a")
        errand.was_silent(again)
    assert not errand.try_silent_again()


def test_who_answers_in_between_was_not_silent_too_often() -> None:
    errand = Errand({"R": list(range(2 * MOST_SILENCES))})
    errand.learn("R", ("a",))
    for _ in range(2 * MOST_SILENCES):
        silent = errand.next_order()
        assert silent is not None
        errand.was_silent(silent)
        assert errand.try_silent_again()
        order = errand.next_order()
        assert order is not None
        errand.came(order)
    assert errand.is_done


def test_who_alone_has_it_is_asked_again_after_one_lie() -> None:
    errand = Errand({"R": [0]})
    errand.learn("R", (SOURCE,))
    for _ in range(MOST_LIES):
        order = errand.next_order()
        assert order == Order("R", 0, SOURCE)
        errand.was_damaged(order)
    assert errand.next_order() is None and errand.nobody_known() == ["R"]


def test_the_source_sends_a_tensor_to_one_of_those_who_want_it() -> None:
    directory = Directory(SOURCE)
    assert directory.holders("a", "R", (), near).holders == (SOURCE,)
    assert directory.holders("a", "R", (), near).holders == (SOURCE,), "asked again, it still carries it"
    coming = directory.holders("b", "R", (), near)
    assert coming.holders == ("a",) and coming.is_coming
    directory.add("a", ["R"])
    assert directory.holders("b", "R", (), near).holders == ("a", SOURCE)


def test_whoever_waits_for_one_that_is_gone_goes_to_the_source() -> None:
    directory = Directory(SOURCE)
    for end in (lambda: directory.drop("a"), lambda: directory.stop("a", ["R"])):
        directory.holders("a", "R", (), near)
        assert directory.holders("b", "R", (), near).holders == ("a",)
        end()
        assert directory.holders("b", "R", (), near).holders == (SOURCE,)
        directory.drop("b")
    directory.holders("a", "R", (), near)
    assert directory.holders("b", "R", ("a",), near).holders == (SOURCE,), "it does not get on"


def test_the_nearest_holder_comes_first_and_nobody_is_sent_to_itself() -> None:
    directory = Directory(SOURCE)
    for holder in ("far", "near", "asker"):
        directory.add(holder, ["R"])
    seconds = {"far": 2.0, "near": 1.0}
    found = directory.holders("asker", "R", (), lambda source, _: seconds[source])
    assert found.holders == ("near", "far", SOURCE)
    assert directory.holders("asker", "R", ("near", SOURCE), lambda source, _: seconds[source]).holders == ("far",)
    assert directory.holders("asker", "S", (SOURCE,), near).holders == ()


def test_what_was_used_least_lately_makes_room() -> None:
    kept = [Kept("new", 10, 3.0), Kept("old", 4, 1.0), Kept("middle", 4, 2.0)]
    assert to_remove(kept, 0) == to_remove(kept, -5) == []
    assert to_remove(kept, 4) == ["old"]
    assert to_remove(kept, 5) == ["old", "middle"]
    assert to_remove(kept, 19) is None


def test_a_device_asks_no_faster_than_it_was_told_to() -> None:
    pace = FetchPace(100.0)
    assert pace.take(50, 1.0) and not pace.take(50, 1.2)
    assert pace.wait_s(1.25) == 0.25 and pace.wait_s(2.0) == 0.0
    assert pace.take(50, 1.5)
    assert all(FetchPace(None).take(10**9, 1.0) for _ in range(3))
