"""What is guessed is what is likely, and with "auto" what pays; it follows what turns out to be right."""

from __future__ import annotations

from math import inf

import pytest

from shardnet.speculation.guesser import INDEXED, MOST_CHUNKS, Guesser
from shardnet.speculation.laps import ENOUGH, Laps
from shardnet.speculation.pays import MOST, Load
from shardnet.transport.listener_messages import digest

RUN = [1, 2, 3, 4, 5, 6, 7]
ALONE = Load(1, 1.0)


class Talk:
    """One session alone, a lap of which takes a second."""

    def __init__(self, way: str = "lookup", *, measured: bool = True) -> None:
        self.laps = Laps()
        for _ in range(ENOUGH * measured):
            self.laps.note_lap(1, 1.0, is_followed=False)
            self.laps.note_step(1, 0.2)
        self.guesser = Guesser(way, self.laps, 10**5)
        self.now_s = 0.0

    def know(self, ids: list[int], after_s: float = 1.0) -> None:
        self.now_s += after_s
        self.guesser.know(ids, self.now_s)

    def begin(self, most: int = 100, load: Load = ALONE) -> list[int]:
        return self.guesser.begin(most, load, 0, self.now_s, is_clear=True)[0]

    def further(self, most: int = 100, num_others: int = 0) -> tuple[list[int], float]:
        return self.guesser.further(most, num_others, self.now_s)


def test_more_is_guessed_where_all_was_right() -> None:
    talk = Talk()
    talk.know(RUN * 4)
    widths = []
    for _ in range(6):
        guesses = talk.begin()
        widths.append(len(guesses))
        talk.know([*guesses, RUN[(len(guesses) + sum(widths[:-1])) % 7]])
        widths[-1] += 1
    assert widths == sorted(widths) and widths[-1] == MOST + 1
    assert len(talk.begin(3)) == 3


@pytest.mark.parametrize("way", ["auto", "lookup"])
def test_where_guesses_are_in_vain_none_are_made(way: str) -> None:
    talk = Talk(way)
    talk.know(RUN * 2)
    num_tried = 0
    for number in range(300):
        num_tried += bool(talk.begin())
        talk.know([100 + number, *RUN])
    assert num_tried < 30


def test_what_was_not_sent_says_how_likely_it_was() -> None:
    """So guessing begins again when a text repeats again, without a lap being tried."""
    talk = Talk()
    talk.know([*RUN, *RUN])
    for number in range(40):
        talk.begin(0)
        talk.know([100 + number, *RUN])
    assert talk.begin() == []
    for _ in range(20):
        talk.begin(0)
        talk.know(RUN)
    assert len(talk.begin()) > 8


def test_auto_guesses_nothing_before_laps_are_known() -> None:
    talk = Talk("auto", measured=False)
    talk.know(RUN * 4)
    for step in range(ENOUGH):
        assert talk.begin() == []
        talk.know([RUN[step]])
    assert talk.begin() == RUN[ENOUGH : ENOUGH + 2]


def test_auto_guesses_nothing_where_rows_take_too_long_and_tries_again() -> None:
    talk = Talk("auto")
    talk.know(RUN * 40)
    num_tried = position = 0
    for _ in range(400):
        guesses = talk.begin()
        num_tried += bool(guesses)
        position += 1 + len(guesses)
        talk.know([RUN[at % 7] for at in range(position - 1 - len(guesses), position)], 1.0 + 1.2 * len(guesses))
    assert 1 <= num_tried < 20
    for _ in range(700):
        guesses = talk.begin()
        position += 1 + len(guesses)
        talk.know([RUN[at % 7] for at in range(position - 1 - len(guesses), position)], 1.0 + 0.01 * len(guesses))
    assert len(talk.begin()) > 4


def test_others_rows_count() -> None:
    """Where a row of each of many takes as long as a lap of one, no row is free."""
    talk = Talk("auto")
    for num_rows in (4, 8, 16):
        for _ in range(ENOUGH):
            talk.laps.note_lap(num_rows, float(num_rows), is_followed=False)
    talk.know(RUN * 40)
    assert talk.begin(load=Load(4, 4.0)) == []


def test_further_chunks_go_on_behind_those_in_flight() -> None:
    talk = Talk()
    talk.know(RUN * 40)
    sent = talk.begin()
    for _ in range(200):
        guesses, from_s = talk.further()
        sent += guesses
        if from_s == inf:
            break
        talk.now_s = max(talk.now_s, from_s)
    assert talk.guesser.num_chunks <= MOST_CHUNKS
    assert len(sent) > 4 and sent == (RUN * 10)[: len(sent)]
    assert talk.guesser.num_in_flight == len(sent)


def test_further_chunks_leave_room_for_others_and_are_sent_one_after_the_other() -> None:
    talk = Talk()
    talk.know(RUN * 40)
    assert talk.further() == ([], inf)
    talk.begin()
    assert talk.further(num_others=5) == ([], inf)
    guesses, from_s = talk.further()
    assert guesses == [] and talk.now_s < from_s < inf
    talk.now_s = from_s
    assert talk.further()[0]


def test_wrong_guesses_end_what_is_in_flight() -> None:
    talk = Talk()
    talk.know(RUN * 40)
    first = talk.begin()
    talk.now_s += 0.6
    assert talk.further()[0]
    talk.know([*first[:1], 99])
    assert talk.guesser.num_in_flight == talk.guesser.num_chunks == 0
    assert talk.guesser.num_right == 1 and talk.guesser.num_guessed > len(first)


def test_a_long_prompt_is_indexed_in_portions() -> None:
    talk = Talk()
    talk.know(RUN * INDEXED)
    assert talk.begin() == []
    for _ in range(7):
        talk.know(RUN)
    assert talk.begin()[:3] == RUN[:3]


def test_guesses_from_elsewhere_go_with_what_is_known_and_behind_it() -> None:
    talk = Talk()
    talk.know(RUN)
    assert talk.guesser.offer(7, digest(RUN), [50, 51]) == 2
    assert talk.begin() == [50, 51]
    assert talk.guesser.offer(8, digest([*RUN, 50]), [51, 52]) == 1
    talk.now_s += 0.6
    assert talk.further() == ([52], talk.now_s)
    talk.guesser.give_up()
    assert talk.guesser.num_in_flight == 0 and talk.further() == ([], inf)


@pytest.mark.parametrize("way", ["auto", "lookup"])
def test_a_clock_that_stands_still_ends_nothing(way: str) -> None:
    """Laps of no time at all were divided by, and that would end the stage."""
    talk = Talk(way, measured=False)
    talk.know(RUN * 10, after_s=0.0)
    for index in range(5 * len(RUN)):
        talk.begin()
        talk.laps.note_step(1, 0.0)
        talk.further()
        talk.know([RUN[index % len(RUN)]], after_s=0.0)
    assert talk.guesser.num_guessed == talk.guesser.num_right > 0
