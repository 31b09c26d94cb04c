"""Who is in the cluster by the door's account: ids, names, versions and numbers. Nobody is asked here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.errors import ClusterError, JoinFailed, UsageError
from shardnet.transport.door.messages import News
from shardnet.transport.door.roster import MAX_ID, MOST_COUNTERS, Member, Roster, RosterState, new_roster
from shardnet.transport.door.roster_file import NAME, file_of, roster_in


def join(roster: Roster, name: str) -> Member:
    member = Member(roster.admit(), name, f"uv://127.0.0.1:{name}")
    assert roster.enlist(member) is None
    return member


def told(member: Member) -> tuple[int, str, str, str]:
    return member.id, member.name, member.address, member.host


def news_since(roster: Roster, version: int) -> News:
    """What somebody is told when all was kept."""
    roster.kept = roster.version
    return roster.changes_since(version)


def test_every_change_has_a_version_and_whoever_missed_some_is_told() -> None:
    roster = new_roster()
    first, second = join(roster, "a"), join(roster, "b")
    assert news_since(roster, 0) == News(2, (told(first), told(second)), ())
    assert news_since(roster, 2) == News(2, (), ())
    assert roster.strike(first.id)
    again = join(roster, "a")
    assert news_since(roster, 2) == News(4, (told(again),), (first.id,))
    assert news_since(roster, 3) == News(4, (told(again),), ())
    assert roster.members == (second, again)


def test_a_name_has_one_holder_and_an_id_one_life() -> None:
    roster = new_roster()
    holder = join(roster, "a")
    twin = Member(roster.admit(), "a", "")
    assert roster.enlist(twin) == holder
    assert roster.version == 1
    assert roster.strike(holder.id) and not roster.strike(holder.id)
    assert roster.enlist(twin) is None
    for member in (holder, twin):
        with pytest.raises(ClusterError, match="has been in this cluster before"):
            roster.enlist(member._replace(name="other"))


def test_ids_end() -> None:
    roster = Roster(RosterState(0, MAX_ID - 1, (), (), {}))
    assert roster.admit() == MAX_ID
    with pytest.raises(JoinFailed, match=f"has seen {MAX_ID} devices join"):
        roster.admit()


def test_numbers_are_drawn_once_and_counters_are_few() -> None:
    roster = new_roster()
    assert [roster.draw("plan", count) for count in (1, 5, 2)] == [1, 2, 7]
    assert roster.draw("session", 1) == 1
    for count in (0, -1, 2**62):
        with pytest.raises(UsageError, match="cannot be drawn from 'plan', of which 8 are given out"):
            roster.draw("plan", count)
    for number in range(MOST_COUNTERS - 2):
        roster.draw(f"counter {number}", 1)
    with pytest.raises(UsageError, match="at most 64 counters"):
        roster.draw("one too many", 1)
    assert roster.draw("plan", 1) == 9


def test_whoever_follows_the_news_knows_the_roster_whatever_it_misses() -> None:
    """Random lives; listeners that hear every change, or every tenth, or hardly any."""
    dice = random.Random(7)
    roster = new_roster()
    known: list[dict[int, str]] = [{} for _ in range(3)]
    versions, gone = [0, 0, 0], set()
    for step in range(2000):
        if dice.random() < 0.55 or not roster.members:
            name = f"device-{dice.randrange(40)}"
            roster.enlist(Member(roster.admit(), name, ""))
        else:
            member = dice.choice(roster.members)
            roster.strike(member.id)
            gone.add(member.id)
        for listener, every in enumerate((1, 10, 700)):
            if step % every == 0 or step == 1999:
                news = news_since(roster, versions[listener])
                versions[listener] = news.version
                for member_id in news.left:
                    known[listener].pop(member_id, None)
                known[listener].update({member_id: name for member_id, name, _, _ in news.joined})
    expected = {member.id: member.name for member in roster.members}
    assert known == [expected] * 3
    assert len(set(expected.values())) == len(expected)
    assert set(news_since(roster, 0).left) == gone


class Follower:
    """Somebody who hears news now and then, and knows the members by it."""

    def __init__(self) -> None:
        self.version = 0
        self.names: dict[int, str] = {}

    def hear(self, roster: Roster) -> None:
        news = roster.changes_since(self.version)
        self.version = news.version
        for member_id in news.left:
            self.names.pop(member_id, None)
        self.names.update({member_id: name for member_id, name, _, _ in news.joined})


class Door:
    """A roster that is kept now and then, and whose process is killed now and then. What is not kept is not told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / NAME).unlink(missing_ok=True)
        self.roster = roster_in(folder)
        self.admitted: list[int] = []
        """Since the roster was kept last; so are the next."""
        self.drawn: list[int] = []
        self.told_ids: list[int] = []
        self.told_numbers: list[int] = []
        self.followers = [Follower() for _ in range(3)]
        self.keep()

    def join(self, name: str) -> None:
        self.admitted.append(self.roster.admit())
        self.roster.enlist(Member(self.admitted[-1], name, "", b"secret", "process"))

    def leave(self, which: int) -> None:
        if self.roster.members:
            self.roster.strike(self.roster.members[which % len(self.roster.members)].id)

    def draw(self, count: int) -> None:
        first = self.roster.draw("plan", count)
        self.drawn += range(first, first + count)

    def keep(self) -> None:
        (self.folder / NAME).write_bytes(file_of(self.roster))
        self.roster.kept = self.roster.version
        self.told_ids += self.admitted
        self.told_numbers += self.drawn
        self.admitted, self.drawn = [], []

    def kill(self) -> None:
        self.roster = roster_in(self.folder)
        self.admitted, self.drawn = [], []

    def hear(self, which: int) -> None:
        self.followers[which].hear(self.roster)


STEPS = st.one_of(
    st.tuples(st.just("join"), st.sampled_from("abcde")),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("draw"), st.integers(1, 3)),
    st.tuples(st.just("keep")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("hear"), st.integers(0, 2)),
)


@settings(deadline=None, max_examples=300)
@given(steps=st.lists(STEPS, max_size=40))
def test_nothing_is_given_out_twice_and_all_agree_however_often_the_door_is_killed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    door = Door(tmp_path_factory.getbasetemp())
    for kind, *argument in steps:
        getattr(door, kind)(*argument)
    door.keep()
    for follower in door.followers:
        follower.hear(door.roster)
        assert follower.names == {member.id: member.name for member in door.roster.members}
    assert len(set(door.told_ids)) == len(door.told_ids)
    assert len(set(door.told_numbers)) == len(door.told_numbers)
    assert roster_in(door.folder).state == door.roster.state


def spoilt(**changes: Any) -> RosterState:
    roster = new_roster()
    first, second = join(roster, "a"), join(roster, "b")
    join(roster, "c")
    roster.strike(second.id)
    state = roster.state
    values = {"first": first, "last": state.members[-1], **state._asdict()}
    return state._replace(**{field: change(values) for field, change in changes.items()})


@pytest.mark.parametrize(
    "state",
    [
        spoilt(version=lambda was: was["version"] - 1),
        spoilt(last_id=lambda was: was["last_id"] - 1),
        spoilt(last_id=lambda was: MAX_ID + 1),
        spoilt(members=lambda was: was["members"][::-1]),
        spoilt(members=lambda was: (*was["members"], (was["first"], 4))),
        spoilt(members=lambda was: (*was["members"], (was["first"]._replace(id=1), 4))),
        spoilt(left=lambda was: (*was["left"], (was["first"].id, 4))),
        spoilt(left=lambda was: was["left"] * 2),
    ],
    ids=["version", "last id", "too many", "order", "twice", "one name", "left and there", "left twice"],
)
def test_a_roster_that_contradicts_itself_is_none(state: RosterState) -> None:
    with pytest.raises(ValueError, match="contradicts itself"):
        Roster(state)
