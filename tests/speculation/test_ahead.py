"""Guesses in flight and waiting are always what goes on from what is known, whoever offers what, and when."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.speculation.ahead import MOST_WAITING, OLDEST, Ahead
from shardnet.transport.listener_messages import digest

PROMPT = [1, 2, 3]


def begun() -> Ahead:
    ahead = Ahead()
    assert ahead.know(PROMPT) == 0
    return ahead


def offer(ahead: Ahead, ids: list[int]) -> int:
    """Behind all that is there."""
    return offer_at(ahead, ahead.end, ahead.digest, ids)


def offer_at(ahead: Ahead, position: int, before: int, ids: list[int]) -> int:
    """Each of a kind of its own."""
    return ahead.offer(position, before, ids, [10 * (position + index) + each for index, each in enumerate(ids)])


def counts(ahead: Ahead) -> tuple[int, int, int]:
    return ahead.num_known, ahead.num_in_flight, ahead.num_waiting


def test_guesses_wait_are_in_flight_and_become_known() -> None:
    ahead = begun()
    assert offer(ahead, [4, 5, 6, 7]) == 4 and counts(ahead) == (3, 0, 4)
    assert ahead.take(2) == [4, 5] and counts(ahead) == (3, 2, 2)
    assert ahead.know([4]) == 1 and counts(ahead) == (4, 1, 2)
    assert ahead.take(9) == [6, 7] and counts(ahead) == (4, 3, 0)
    assert ahead.know([5, 6]) == 2 and counts(ahead) == (6, 1, 0)


def test_what_is_wrong_drops_all_behind_it() -> None:
    ahead = begun()
    offer(ahead, [4, 5, 6, 7])
    ahead.take(2)
    assert ahead.know([4, 9]) == 1 and counts(ahead) == (5, 0, 0)
    assert [ahead[at] for at in range(5)] == [1, 2, 3, 4, 9]


def test_what_is_known_sooner_than_it_was_sent_waits_no_more() -> None:
    ahead = begun()
    offer(ahead, [4, 5, 6])
    assert ahead.know([4, 5]) == 2 and counts(ahead) == (5, 0, 1)
    assert ahead.take(9) == [6]


def test_an_offer_for_another_text_is_not_taken() -> None:
    ahead = begun()
    assert offer_at(ahead, 3, digest([1, 2, 4]), [5]) == 0
    assert offer_at(ahead, 4, digest([1, 2, 3, 4]), [5]) == 0
    assert offer_at(ahead, 9, 0, [5]) == offer_at(ahead, -1, 0, [5]) == 0
    assert offer_at(ahead, 3, digest(PROMPT), []) == 0
    assert counts(ahead) == (3, 0, 0)


def test_an_offer_may_begin_with_what_is_there() -> None:
    ahead = begun()
    before = digest([1, 2])
    assert offer_at(ahead, 2, before, [3, 4, 5]) == 2
    ahead.take(1)
    assert offer_at(ahead, 2, before, [3, 4, 5, 6]) == 1 and counts(ahead) == (3, 1, 2)
    assert offer_at(ahead, 2, before, [3, 4]) == 0 and counts(ahead) == (3, 1, 2)


def test_what_waits_is_replaced_and_what_is_in_flight_is_not() -> None:
    ahead = begun()
    offer(ahead, [4, 5, 6])
    ahead.take(1)
    assert offer_at(ahead, 3, digest(PROMPT), [4, 8, 9]) == 2
    assert ahead.take(9) == [8, 9]
    assert offer_at(ahead, 3, digest(PROMPT), [7, 8]) == 0
    assert counts(ahead) == (3, 3, 0)


def test_no_more_wait_than_may_ever_be_sent() -> None:
    ahead = begun()
    assert offer(ahead, list(range(500))) == MOST_WAITING
    assert offer(ahead, [1]) == 0
    ahead.give_up()
    assert counts(ahead) == (3, 0, 0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 5, OLDEST, 3 * OLDEST]))
def test_it_is_always_what_goes_on(seed: int, num_prompt: int) -> None:
    """Beside a model of it that has all in lists."""
    random = Random(seed)
    known = [random.randrange(3) for _ in range(num_prompt)]
    ahead, flight, waiting = Ahead(), list[int](), list[int]()
    ahead.know(known)
    for _ in range(60):
        whole = known + flight + waiting
        match random.randrange(5):
            case 0 | 1:
                position = max(0, len(whole) - random.randint(0, 6))
                ids = [random.randrange(3) for _ in range(random.randint(0, 5))]
                text = whole[:position]
                if random.random() < 0.2 and text:
                    text[-1] += 1
                took = offer_at(ahead, position, digest(text), ids)
                new = [*text, *ids]
                sent = known + flight
                fits = text == whole[:position] and new[: len(sent)] == sent[: len(new)]
                expected = 0
                if fits and whole[: len(new)] != new:
                    same = next((at for at in range(len(whole)) if whole[at] != new[at]), len(whole))
                    waiting, expected = new[len(sent) :], len(new) - same
                assert took == expected
            case 2:
                most = random.randint(0, 4)
                assert ahead.take(most) == waiting[:most]
                flight, waiting = flight + waiting[:most], waiting[most:]
            case 3:
                likely = [each if random.random() < 0.8 else 2 for each in (flight + waiting)[: random.randint(0, 4)]]
                ids = likely or [random.randrange(3)]
                pending, known = flight + waiting, known + ids
                is_right = pending[: len(ids)] == ids
                ahead.know(ids)
                waiting = waiting[max(0, len(ids) - len(flight)) :] if is_right else []
                flight = flight[len(ids) :] if is_right else []
            case _ if random.random() < 0.2:
                ahead.give_up()
                flight, waiting = [], []
        assert counts(ahead) == (len(known), len(flight), len(waiting))
        assert [ahead[at] for at in range(ahead.end)] == known + flight + waiting
        assert ahead.digest == digest(known + flight + waiting)
        guesses = range(len(known), ahead.end)
        assert [ahead.kind(at) for at in guesses] == [10 * at + ahead[at] for at in guesses]
