"""What a draft knows of one answer, under any order of tokens that are heard and steps that end: never a token computed
behind others than its own, and offers that go on from what is known.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.draft.chain import OVERLAP, Chain, Step
from shardnet.session.request import session_spec
from shardnet.speculation.ahead import Ahead
from shardnet.speculation.depth import MOST
from shardnet.transport.listener_messages import digest
from shardnet.transport.offer_messages import MOST_IDS
from shardnet.transport.session_messages import SamplingOptions

PROMPT = [1, 2, 3]
NUM_TOKENS = 30
NUM_IDS = 1000


def chain_of(num_tokens: int = NUM_TOKENS, longest: int = 1000, eos: tuple[int, ...] = ()) -> Chain:
    spec = session_spec(0, len(PROMPT), num_tokens, eos, SamplingOptions(speculate="draft"))
    return Chain(spec, PROMPT, longest, NUM_IDS)


class Cache:
    """The draft's: all ids up to a token stand for its keys and values."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, ...]] = []

    def run(self, step: Step) -> None:
        assert step.first <= len(self.rows) and step.ids
        del self.rows[step.first :]
        for token_id in step.ids:
            self.rows.append((*(self.rows[-1] if self.rows else ()), token_id))


def guess_by(agrees: Callable[[int], bool], truth: list[int], position: int) -> int:
    return truth[position] if agrees(position) else truth[position] + 500


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("hsse"), max_size=150),
    st.sets(st.integers(0, len(PROMPT) + NUM_TOKENS)),
    st.integers(1, 5),
    st.data(),
)
def test_a_step_is_behind_its_own_tokens(events: list[str], wrong: set[int], most: int, data: st.DataObject) -> None:
    """h: a token is heard. s: a step begins, or the one that runs goes on. e: the step ends."""
    truth = [*PROMPT, *data.draw(st.lists(st.integers(0, 3), min_size=NUM_TOKENS, max_size=NUM_TOKENS))]
    chain, cache, running = chain_of(), Cache(), None
    first_stage, heard = Ahead(), len(PROMPT)
    first_stage.know(PROMPT)
    for event in events:
        if event == "h" and heard < len(truth):
            chain.hear([truth[heard]])
            heard += 1
            if data.draw(st.booleans()):  # the first stage hears it sooner or later
                first_stage.know(truth[first_stage.num_known : heard])
        elif event == "s" and running is None and chain.wants_more():
            running = chain.next_step(most)
            cache.run(running)
            assert list(cache.rows[-1]) == chain.known_before(running)
        elif event == "e" and running is not None:
            guess = None
            if running.is_last:
                guess = guess_by(lambda at: at not in wrong, truth, running.end) if running.end < len(truth) else 7
            if chain.computed(running, guess):
                offer = chain.offer()
                assert offer.before == digest(chain.known[: offer.position])
                assert list(offer.ids) == [*chain.known, *chain.guesses][offer.position :]
                assert len(offer.ids) <= MOST_IDS
                first_stage.offer(offer.position, offer.before, offer.ids)
            running = None
        assert chain.known == truth[:heard]
        assert len(chain.guesses) <= MOST
        assert chain.num_safe <= len(cache.rows)
        if chain.num_safe and running is None:
            assert list(cache.rows[chain.num_safe - 1]) == chain.known[: chain.num_safe]


def run_all(chain: Chain, guess: Callable[[int], int]) -> None:
    """Compute until nothing more is wanted."""
    while chain.wants_more():
        step = chain.next_step(64)
        chain.computed(step, guess(step.end) if step.is_last else None)


def test_nothing_is_computed_before_the_first_token_is_known() -> None:
    chain = chain_of()
    assert not chain.wants_more()
    chain.hear([9])
    assert chain.next_step(64) == Step(0, (1, 2, 3, 9), is_last=True)
    assert chain.next_step(3) == Step(0, (1, 2, 3), is_last=False)


def test_a_wrong_guess_and_all_behind_it_are_cut_off() -> None:
    chain = chain_of()
    chain.hear([9])
    run_all(chain, lambda at: at)
    assert chain.guesses[:2] == [4, 5]
    chain.hear([4, 77])
    assert (chain.known, chain.guesses) == ([1, 2, 3, 9, 4, 77], [])
    assert chain.next_step(64) == Step(5, (77,), is_last=True)
    assert (chain.num_judged, chain.num_right) == (2, 1)


def test_what_is_heard_while_a_step_runs_makes_its_guess_useless() -> None:
    chain = chain_of()
    chain.hear([9])
    step = chain.next_step(64)
    chain.hear([4])
    assert not chain.computed(step, 4)
    assert (chain.guesses, chain.num_judged, chain.num_right) == ([], 1, 1)
    step = chain.next_step(64)
    assert step.ids == (4,)


def test_an_offer_begins_a_few_tokens_before_the_end_of_what_is_known() -> None:
    chain = chain_of()
    chain.hear([9])
    run_all(chain, lambda at: at)
    assert chain.offer()[1:3] == (3, digest(PROMPT)) and chain.offer().ids[:3] == (9, 4, 5)
    chain.hear(list(range(4, 4 + OVERLAP)))
    assert chain.offer().position == len(chain.known) - OVERLAP
    assert chain.offer().ids[:OVERLAP] == tuple(range(4, 4 + OVERLAP))


def test_nothing_is_guessed_behind_the_end() -> None:
    chain = chain_of(num_tokens=5)
    chain.hear([9])
    run_all(chain, lambda at: at)
    assert len(chain.guesses) == 3  # behind the last token none goes round
    for over in (chain_of(eos=(9,)), chain_of(num_tokens=1), chain_of(longest=4), chain_of(longest=2)):
        over.hear([9])
        assert over.is_over and not over.wants_more()
        over.hear([9])


def test_nothing_goes_on_from_an_id_that_the_draft_has_not() -> None:
    """Models of one family are filled up to different numbers of ids: one such ended the draft of all answers."""
    chain = chain_of()
    chain.hear([5])
    assert chain.wants_more()
    chain.hear([NUM_IDS])
    assert chain.is_over and not chain.wants_more()
    assert Chain(chain.spec, [1, NUM_IDS, 2], 1000, NUM_IDS).is_over
