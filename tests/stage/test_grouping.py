"""How many sessions go round together: a ring by itself, in which every step takes as long as it takes."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.stage.grouping import Grouping

STEP_S = 0.01


class Ring:
    """The first stage, and behind it others through which each group goes in the same time.

    Args:
        here: sessions that wait at the first stage, each group in a list of its own; they arrive one after the other.
    """

    def __init__(self, num_groups: int, groups: list[list[int]], num_stages: int = 3) -> None:
        self.grouping = Grouping(num_groups)
        self.sessions = {session for group in groups for session in group}
        self.now_s = 0.0
        self.waited_s = 0.0
        self.waiting: list[int] = []
        self._behind_s = (num_stages - 1) * STEP_S
        self._on_the_way = [(number * STEP_S, group) for number, group in enumerate(groups)]
        heapq.heapify(self._on_the_way)

    def step(self) -> list[int]:
        """The group that the first stage takes next."""
        while True:
            while self._on_the_way and self._on_the_way[0][0] <= self.now_s:
                self.waiting += heapq.heappop(self._on_the_way)[1]
            choice = self.grouping.choose(self.now_s, len(self.waiting), len(self.sessions))
            if self.waiting and choice.most != 0:
                break
            comes_s = self._on_the_way[0][0] if self._on_the_way else float("inf")
            until_s = float("inf") if choice.wait_s is None else self.now_s + choice.wait_s
            assert min(comes_s, until_s) < float("inf"), "it waits for nobody"
            self.waited_s += (min(comes_s, until_s) - self.now_s) if self.waiting else 0.0
            self.now_s = max(self.now_s, min(comes_s, until_s))
        group, self.waiting = self.waiting[: choice.most], self.waiting[choice.most :] if choice.most else []
        self.grouping.taken(self.now_s, group)
        self.now_s += STEP_S
        heapq.heappush(self._on_the_way, (self.now_s + self._behind_s, group))
        return group

    def lose(self, session: int) -> None:
        """Its token does not come again, and it stays open."""
        self._on_the_way = [(at_s, [one for one in group if one != session]) for at_s, group in self._on_the_way]
        self.waiting = [one for one in self.waiting if one != session]


def sizes(ring: Ring, num_steps: int) -> list[int]:
    return [len(ring.step()) for _ in range(num_steps)]


def test_one_group_is_parted() -> None:
    """Once, sessions that had begun together stayed together, and two of three devices idled."""
    ring = Ring(3, [list(range(16))])
    ring.step()
    assert sorted(sizes(ring, 12)[-3:]) == [4, 6, 6]


def test_groups_that_could_not_go_on_at_the_same_time_become_one() -> None:
    ring = Ring(2, [list(range(5)), list(range(5, 10)), list(range(10, 16))])
    sizes(ring, 20)
    assert sizes(ring, 6) == [8] * 6


@pytest.mark.parametrize("num_groups", [2, 3])
def test_a_session_by_itself_never_waits(num_groups: int) -> None:
    ring = Ring(num_groups, [[1]])
    assert sizes(ring, 20) == [1] * 20
    assert ring.waited_s == 0


def test_sessions_that_do_not_come_delay_the_others_little() -> None:
    """They are open, and their tokens are lost, or sent again."""
    ring = Ring(2, [list(range(4)), list(range(4, 8))])
    sizes(ring, 20)
    for session in (4, 5, 6):
        ring.lose(session)
    sizes(ring, 10)
    begin_s, taken = ring.now_s, [session for _ in range(200) for session in ring.step()]
    num_laps_alone = (ring.now_s - begin_s) / (3 * STEP_S)
    assert min(taken.count(session) for session in (0, 1, 2, 3, 7)) > 0.6 * num_laps_alone


def test_after_waits_in_vain_it_rests() -> None:
    ring = Ring(3, [[0]])
    ring.sessions |= set(range(1, 12))
    sizes(ring, 100)
    waited_s = ring.waited_s
    sizes(ring, 400)
    assert ring.waited_s - waited_s < 0.05 * 400 * 3 * STEP_S


def test_a_wait_in_vain_is_not_the_last() -> None:
    """Once, groups that met a slow prompt at first stayed as small as they were."""
    ring = Ring(2, [list(range(5)), list(range(5, 10)), list(range(10, 16))])
    ring.grouping._num_decoding, ring.grouping._rests_until_s = 16, 0.5
    sizes(ring, 60)
    assert sizes(ring, 6) == [8] * 6


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_every_session_goes_round_whatever_the_groups(num_groups: int, counts: list[int], num_stages: int) -> None:
    groups, first = [], 0
    for count in counts:
        groups.append(list(range(first, first + count)))
        first += count
    ring = Ring(num_groups, groups, num_stages)
    taken = dict.fromkeys(ring.sessions, 0)
    for _ in range(60 * len(counts)):
        for session in ring.step():
            taken[session] += 1
    assert min(taken.values()) >= 0.5 * max(taken.values()) - 2
    num_laps = max(taken.values())
    assert ring.waited_s <= num_laps * num_stages * STEP_S
