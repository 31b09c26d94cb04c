"""More is guessed where guesses were right, and less where they were not."""

from __future__ import annotations

from shardnet.speculation.guesser import FIRST, MOST, MOST_RESTS, Guesser

RUN = [1, 2, 3, 4, 5, 6, 7]


def test_more_is_guessed_where_all_was_right() -> None:
    guesser = Guesser()
    guesser.know(RUN * 4)
    widths = []
    for _ in range(4):
        guesses = guesser.guess(100)
        widths.append(len(guesses))
        guesser.know(guesses)
    assert widths == [FIRST, 2 * FIRST, MOST, MOST]
    assert len(guesser.guess(3)) == 3


def test_less_is_guessed_where_some_was_wrong() -> None:
    guesser = Guesser()
    guesser.know(RUN * 4)
    first = guesser.guess(100)
    guesser.know([first[0], 99, *RUN])
    assert len(guesser.guess(100)) == 2


def test_where_guesses_are_in_vain_they_become_rare() -> None:
    guesser = Guesser()
    guesser.know(RUN * 2)
    num_tried = 0
    for number in range(1000):
        guesses = guesser.guess(100)
        num_tried += bool(guesses)
        guesser.know([100 + number, *RUN])
    assert 5 < num_tried < 1000 / MOST_RESTS + 10
