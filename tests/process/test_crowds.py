"""Who waits to be looked at makes room for others, first of all for those of its own crowd."""

from __future__ import annotations

from shardnet.process.crowds import Crowds


def test_a_crowd_makes_room_for_itself_alone() -> None:
    crowds: Crowds[int] = Crowds(most_of_one=3)
    assert [crowds.add(number, "here") for number in range(3)] == [None, None, None]
    assert crowds.add(10, "there") is None
    assert [crowds.add(number, "here") for number in (3, 4)] == [0, 1]
    assert [*crowds] == [2, 10, 3, 4]


def test_the_largest_crowd_makes_room_where_there_are_too_many() -> None:
    crowds: Crowds[int] = Crowds(most_of_one=3, most=5)
    for number, crowd in enumerate(["a", "b", "b", "b", "c"]):
        assert crowds.add(number, crowd) is None
    assert crowds.add(5, "d") == 1
    assert [*crowds] == [0, 2, 3, 4, 5]


def test_who_turns_out_to_be_of_another_crowd_counts_there() -> None:
    crowds: Crowds[int] = Crowds(most_of_one=1)
    assert crowds.add(0, "gate") is None
    assert crowds.add(0, "phone") is None
    assert crowds.add(1, "gate") is None
    assert crowds.add(1, "phone") == 0
    crowds.remove(1)
    crowds.remove(1)
    assert [*crowds] == []
