"""Who is in the cluster by the door's account: ids, names, versions and numbers. Nobody is asked here."""

from __future__ import annotations

import random

import pytest

from shardnet.errors import ClusterError, JoinFailed, UsageError
from shardnet.transport.door.messages import News
from shardnet.transport.door.roster import MAX_ID, MOST_COUNTERS, Member, Roster, RosterState, new_roster


def join(roster: Roster, name: str) -> Member:
    member = Member(roster.admit(), name, f"uv://127.0.0.1:{name}")
    assert roster.enlist(member) is None
    return member


def news_since(roster: Roster, version: int) -> News:
    """What somebody is told when all was kept."""
    roster.kept = roster.version
    return roster.changes_since(version)


def test_every_change_has_a_version_and_whoever_missed_some_is_told() -> None:
    roster = new_roster()
    first, second = join(roster, "a"), join(roster, "b")
    assert news_since(roster, 0) == News(2, (first[:3], second[:3]), ())
    assert news_since(roster, 2) == News(2, (), ())
    assert roster.strike(first.id)
    again = join(roster, "a")
    assert news_since(roster, 2) == News(4, (again[:3],), (first.id,))
    assert news_since(roster, 3) == News(4, (again[:3],), ())
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
                known[listener].update({member_id: name for member_id, name, _ in news.joined})
    expected = {member.id: member.name for member in roster.members}
    assert known == [expected] * 3
    assert len(set(expected.values())) == len(expected)
    assert set(news_since(roster, 0).left) == gone
