"""Invitations: each for one device, and each code for one try."""

from __future__ import annotations

import pickle
import secrets

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shardnet.errors import UsageError
from shardnet.trust.codes import Code
from shardnet.trust.invitations import (
    CODE_LIFE_S,
    MOST_OPEN,
    MOST_REMEMBERED,
    MOST_TRIES,
    TOKEN_LIFE_S,
    TRY_S,
    Invitation,
    Invitations,
    Try,
)
from shardnet.trust.refusals import Reason, Refused


def slot_of(invitation: Invitation) -> int:
    assert invitation.code is not None
    return invitation.code.slot


def refused(reason: Reason) -> pytest.RaisesExc[Refused]:
    return pytest.RaisesExc(Refused, check=lambda error: error.reason is reason)


def test_a_refusal_crosses_from_one_process_to_another_as_it_is() -> None:
    """Once, who typed a wrong code was told of a mistake in shardnet."""
    for reason in Reason:
        there: Exception = pickle.loads(pickle.dumps(Refused(reason)))
        assert isinstance(there, Refused) and there.reason is reason and str(there) == str(Refused(reason))


@pytest.fixture
def invitations() -> Invitations:
    return Invitations()


def test_a_code_is_good_for_one_device(invitations: Invitations) -> None:
    made = invitations.invite(0)
    assert invitations.use_code(invitations.begin(slot_of(made), 1), 2) == made.number
    assert invitations.open(3) == ()
    with refused(Reason.USED):
        invitations.begin(slot_of(made), 3)
    with refused(Reason.USED):
        invitations.use_token(made.token, 3)


def test_a_token_is_good_for_one_device(invitations: Invitations) -> None:
    made = invitations.invite(0)
    assert invitations.use_token(made.token, 1) == made.number
    with refused(Reason.USED):
        invitations.use_token(made.token, 2)
    with refused(Reason.UNKNOWN_TOKEN):
        invitations.use_token(secrets.token_bytes(16), 2)
    with refused(Reason.UNKNOWN_TOKEN):
        invitations.use_token(b"", 2)


def test_codes_expire_before_tokens(invitations: Invitations) -> None:
    made = invitations.invite(0)
    with refused(Reason.EXPIRED):
        invitations.begin(slot_of(made), CODE_LIFE_S)
    assert [each.code for each in invitations.open(CODE_LIFE_S)] == [None]
    with refused(Reason.EXPIRED):
        invitations.use_token(made.token, TOKEN_LIFE_S)
    assert invitations.open(TOKEN_LIFE_S) == ()


def test_of_two_that_try_a_code_at_once_one_is_refused(invitations: Invitations) -> None:
    made = invitations.invite(0)
    first = invitations.begin(slot_of(made), 1)
    with refused(Reason.BURNT):
        invitations.begin(slot_of(made), 1)
    assert invitations.use_code(first, 2) == made.number


def test_of_a_code_and_a_token_of_one_invitation_one_wins(invitations: Invitations) -> None:
    made = invitations.invite(0)
    tried = invitations.begin(slot_of(made), 1)
    invitations.use_token(made.token, 2)
    with refused(Reason.USED):
        invitations.use_code(tried, 3)


def test_a_wrong_guess_burns_the_code_and_another_takes_its_place(invitations: Invitations) -> None:
    made = invitations.invite(0)
    invitations.fail(invitations.begin(slot_of(made), 1), 2)
    with refused(Reason.BURNT):
        invitations.begin(slot_of(made), 3)
    (shown,) = invitations.open(3)
    assert shown.number == made.number and shown.token == made.token and shown.code not in (None, made.code)
    assert invitations.use_code(invitations.begin(slot_of(shown), 4), 5) == made.number


def test_a_try_that_does_not_end_is_a_guess(invitations: Invitations) -> None:
    made = invitations.invite(0)
    tried = invitations.begin(slot_of(made), 1)
    assert invitations.open(1)[0].code == made.code  # nothing moves on the screen while a device comes in
    (shown,) = invitations.open(1 + TRY_S)
    assert shown.code not in (None, made.code)
    with refused(Reason.BURNT):
        invitations.use_code(tried, 1 + TRY_S)


def test_after_three_guesses_only_tokens_are_left(invitations: Invitations) -> None:
    """Of all invitations together, and until the owner invites anew."""
    other = invitations.invite(0)
    made = invitations.invite(0)
    for _ in range(MOST_TRIES):
        shown = invitations.open(1)[1]
        invitations.fail(invitations.begin(slot_of(shown), 1), 1)
    assert [each.code for each in invitations.open(2)] == [None, None]
    with refused(Reason.ONLY_TOKEN):
        invitations.begin(slot_of(other), 2)
    assert invitations.use_token(made.token, 3) == made.number
    assert slot_of(invitations.invite(4))


def test_guesses_at_once_are_as_many_as_one_after_the_other(invitations: Invitations) -> None:
    slots = [slot_of(invitations.invite(0)) for _ in range(5)]
    for slot in slots[:MOST_TRIES]:
        invitations.begin(slot, 1)
    with refused(Reason.ONLY_TOKEN):
        invitations.begin(slots[MOST_TRIES], 1)


def test_who_cannot_be_taken_in_may_come_again_with_the_same_code(invitations: Invitations) -> None:
    made = invitations.invite(0)
    tried = invitations.begin(slot_of(made), 1)
    invitations.give_back(invitations.use_code(tried, 2))
    invitations.fail(tried, 3)  # its connection ends
    assert invitations.open(4) == (made,)
    assert invitations.use_code(invitations.begin(slot_of(made), 5), 6) == made.number


def test_a_token_that_is_given_back_opens_no_code_that_is_being_tried(invitations: Invitations) -> None:
    made = invitations.invite(0)
    tried = invitations.begin(slot_of(made), 1)
    invitations.give_back(invitations.use_token(made.token, 2))
    with refused(Reason.BURNT):
        invitations.begin(slot_of(made), 3)
    invitations.fail(tried, 4)
    with refused(Reason.BURNT):
        invitations.begin(slot_of(made), 5)


def test_open_invitations_are_few(invitations: Invitations) -> None:
    for _ in range(MOST_OPEN):
        last = invitations.invite(0)
    with pytest.raises(UsageError, match="32 invitations are open"):
        invitations.invite(1)
    assert invitations.withdraw(last.number) and not invitations.withdraw(last.number)
    invitations.invite(2)
    with refused(Reason.EXPIRED):
        invitations.use_token(last.token, 3)


def test_what_is_over_is_forgotten_in_the_end(invitations: Invitations) -> None:
    """A long life leaves nothing behind, and slots stay short."""
    for now_s in range(1000):
        made = invitations.invite(now_s)
        assert slot_of(made) <= 99
        invitations.use_token(made.token, now_s)
    assert len(invitations._invitations) == len(invitations._by_hash) <= MOST_REMEMBERED + 1
    assert len(invitations._slots) <= MOST_REMEMBERED + 1


class RandomOrders(RuleBasedStateMachine):
    """The promises, in any order of what owners, devices and strangers do."""

    def __init__(self) -> None:
        super().__init__()
        self.invitations = Invitations()
        self.now_s = 0.0
        self.made: list[Invitation] = []
        self.seen: list[tuple[int, Code]] = []
        """Codes that a screen has shown, with the invitation of each."""
        self.tries: list[Try] = []
        self.used: set[int] = set()
        self.spent: set[tuple[int, Code]] = set()
        self.guesses_in_row = 0
        self.look()

    def look(self) -> None:
        for each in self.invitations.open(self.now_s):
            if each.code is not None and (each.number, each.code) not in self.seen:
                self.seen.append((each.number, each.code))

    @rule()
    def invite(self) -> None:
        try:
            self.made.append(self.invitations.invite(self.now_s))
        except UsageError:
            assert len(self.invitations.open(self.now_s)) == MOST_OPEN
            return
        self.guesses_in_row = 0
        self.look()

    @rule(which=st.integers(0), back=st.booleans())
    def begin(self, which: int, back: bool) -> None:
        if not self.seen:
            return
        slot = self.seen[-1 - which % len(self.seen) if back else which % len(self.seen)][1].slot
        try:
            tried = self.invitations.begin(slot, self.now_s)
        except Refused:
            return
        assert tried.invitation not in self.used
        assert (tried.invitation, tried.code) not in self.spent, "one guess a code"
        self.spent.add((tried.invitation, tried.code))
        self.tries.append(tried)
        self.guesses_in_row += 1

    @rule(which=st.integers(0))
    def fail(self, which: int) -> None:
        if self.tries:
            self.invitations.fail(self.tries[which % len(self.tries)], self.now_s)
            self.look()

    @rule(which=st.integers(0), gives_back=st.booleans())
    def prove(self, which: int, gives_back: bool) -> None:
        if not self.tries:
            return
        tried = self.tries[which % len(self.tries)]
        try:
            number = self.invitations.use_code(tried, self.now_s)
        except Refused:
            return
        self.count_use(number)
        assert self.now_s < tried.until_s
        if gives_back:
            self.give_back(number)
            self.spent.remove((number, tried.code))

    @rule(which=st.integers(0), gives_back=st.booleans())
    def use_token(self, which: int, gives_back: bool) -> None:
        if not self.made:
            return
        made = self.made[which % len(self.made)]
        try:
            number = self.invitations.use_token(made.token, self.now_s)
        except Refused:
            return
        assert number == made.number and self.now_s < made.token_until_s
        self.count_use(number)
        if gives_back:
            self.give_back(number)

    def count_use(self, number: int) -> None:
        assert number not in self.used, "one device an invitation"
        self.used.add(number)
        self.guesses_in_row = 0

    def give_back(self, number: int) -> None:
        self.invitations.give_back(number)
        self.used.remove(number)

    @rule(which=st.integers(0))
    def withdraw(self, which: int) -> None:
        if self.made:
            self.invitations.withdraw(self.made[which % len(self.made)].number)

    @rule(s=st.sampled_from([1.0, TRY_S, CODE_LIFE_S, TOKEN_LIFE_S]))
    def wait(self, s: float) -> None:
        self.now_s += s
        self.look()

    @invariant()
    def guesses_are_few(self) -> None:
        assert self.guesses_in_row <= MOST_TRIES

    @invariant()
    def what_is_shown_counts(self) -> None:
        shown = self.invitations.open(self.now_s)
        assert len(shown) <= MOST_OPEN and not self.used & {each.number for each in shown}
        slots = [each.code.slot for each in shown if each.code is not None]
        assert len(slots) == len(set(slots))


TestRandomOrders = RandomOrders.TestCase
TestRandomOrders.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
