"""What a stage lets a session begin with, in whatever order it is told, and what its followers hear of that."""

from __future__ import annotations

from array import array

import pytest
import torch
from one_stage import spec

from shardnet.models import BlockKV
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept
from shardnet.stage.live_sessions import LiveSession, LiveSessions
from shardnet.transport.messages import Part
from shardnet.transport.session_messages import SessionSpec
from shardnet.transport.sharing_messages import NOTHING, Shares

BLOCKS = (BlockKV(0, 1, 2, 2),)
KEPT = Kept(2, torch.float32, num_ids=1)
IDS = tuple(range(50, 62))


class Books:
    """The sessions of one stage that is not the last; what it computes are the ids themselves."""

    def __init__(self, *, is_first: bool) -> None:
        self.is_first = is_first
        self.kv = KVCache(BLOCKS, torch.float32, kept=KEPT)
        self.sessions = LiveSessions(self.kv, is_first=is_first)

    def open(self, number: int, num_prompt: int, shares: Shares | None = None) -> int:
        return self.sessions.open(asked(number, num_prompt, shares), None)

    def get(self, number: int) -> LiveSession:
        live = self.sessions.get(number)
        assert live is not None
        return live

    def step(self, number: int, ids: tuple[int, ...], *, is_closed_in_it: bool = False) -> None:
        first = self.get(number).kv.length
        parts = [Part(number, first, len(ids), self.get(number).branch)]
        [session] = self.sessions.begin_step(parts)
        if is_closed_in_it:
            self.sessions.close([number])
        rows = torch.tensor(ids).float()[None, :, None].expand(1, len(ids), 2)
        session.kv.append(0, rows, rows)
        session.kv.keep(first, rows[0])
        if self.is_first:
            session.came[first:] = array("q", ids)
        self.sessions.advance(parts, [session], {})
        session.certain = session.kv.length  # as the parts say that come next
        self.sessions.end_step()

    def ids_of(self, number: int) -> tuple[int, ...]:
        """As its keys and what was sent of it have them."""
        kv = self.get(number).kv
        keys, _ = kv.read(0, kv.length)
        assert torch.equal(keys[0], kv.kept(0, kv.length))
        return tuple(int(number) for number in keys[0, :, 0])


def asked(number: int, num_prompt: int, shares: Shares | None = None) -> SessionSpec:
    return spec(number, num_prompt)._replace(stays=True, shares=shares)


@pytest.fixture(params=[True, False], ids=["first", "middle"])
def books(request: pytest.FixtureRequest) -> Books:
    """With a session that was closed."""
    books = Books(is_first=request.param)
    books.open(1, len(IDS))
    books.step(1, IDS)
    books.sessions.close([1])
    return books


def test_it_begins_with_what_is_there_and_computes_one_token_at_least(books: Books) -> None:
    assert books.open(2, 30, Shares(1, 20, IDS + IDS)) == len(IDS)
    assert books.ids_of(2) == IDS and books.get(2).next_sent == len(IDS)
    books.sessions.close([2])
    assert books.open(3, 5, Shares(2, 5, IDS)) == 4


def test_orders_that_come_twice_or_late_change_nothing(books: Books) -> None:
    """All stages have agreed on 7 tokens, and one has gone on from there."""
    first, second = Shares(1, 11, IDS[:11]), Shares(1, 7)
    assert [books.open(2, 14, order) for order in (first, first, second, first, second)] == [11, 11, 7, 7, 7]
    assert books.ids_of(2) == IDS[:7] and books.get(2).next_sent == 7 and len(books.get(2).came) in (0, 7)
    books.step(2, (1, 2, 3))
    for order in (second, first, None):
        books.open(2, 14, order)
        assert books.ids_of(2) == (*IDS[:7], 1, 2, 3)


def test_in_another_ring_it_begins_with_nothing(books: Books) -> None:
    assert books.open(2, 14, Shares(1, 11, IDS[:11])) == 11
    assert books.open(2, 14, NOTHING) == 0 and books.ids_of(2) == () and books.get(2).next_sent == 0
    books.step(2, IDS)
    assert books.open(2, 14, NOTHING) == len(IDS)


def test_one_that_has_not_begun_when_its_ring_is_exchanged_guesses_in_the_next() -> None:
    """One that has begun does not, before the stage has heard how many of its tokens others have."""
    books = Books(is_first=True)
    for _ in range(2):
        books.open(2, 14, NOTHING)
        assert books.get(2).guess_from == 0
        books.sessions.begin_ring(1 << 20)
        assert books.get(2).guess_from == books.get(2).spec.capacity_tokens
    books.open(2, 14, NOTHING)
    books.step(2, IDS)
    books.sessions.begin_ring(2 << 20)
    books.open(2, 14, NOTHING)
    assert books.get(2).guess_from == books.get(2).spec.capacity_tokens


def test_the_first_stage_takes_over_no_token_that_has_not_come_to_it() -> None:
    """Whatever the coordinator believes: where an answer was computed anew, say."""
    books = Books(is_first=True)
    books.open(1, len(IDS))
    books.step(1, IDS)
    books.sessions.close([1])
    assert books.open(2, 14, Shares(1, 12, (*IDS[:5], 9, *IDS[6:]))) == 5
    assert books.open(3, 14, Shares(2, 5)) == 0, "without ids there is nothing to compare"


def test_a_session_that_is_closed_in_a_step_stays_with_its_tokens(books: Books) -> None:
    """The last stage tells the last token before it has counted the one behind which it was sampled."""
    books.open(2, 14)
    books.step(2, IDS, is_closed_in_it=True)
    assert books.open(3, 30, Shares(2, 12, IDS)) == 12 and books.ids_of(3) == IDS


def test_one_that_does_not_stay_is_gone(books: Books) -> None:
    books.sessions.open(asked(2, 14)._replace(stays=False), None)
    books.step(2, IDS)
    books.sessions.close([2])
    assert books.open(3, 30, Shares(2, 12, IDS)) == 0
    assert books.open(4, 30, Shares(1, 12, IDS)) == 12


def test_nobody_begins_with_tokens_that_could_not_be_sent_again(books: Books) -> None:
    """What was sent of them was sent by a unit that the stage has no more."""
    books.open(2, 14)
    books.step(2, IDS)
    books.sessions.trim(BLOCKS, KEPT, has_new_end=True)
    assert books.open(3, 30, Shares(2, 12, IDS)) == 0 and books.open(4, 30, Shares(1, 12, IDS)) == 0
    books.sessions.close([2])
    assert books.open(5, 30, Shares(2, 12, IDS)) == 0


def test_what_a_session_begins_with_is_settled_with_its_first_step(books: Books) -> None:
    """A follower that had copied tokens which the stage then gives up would go on with another session's."""
    books.open(2, 30, Shares(1, 12, IDS))
    assert not books.get(2).is_settled
    books.open(2, 30, Shares(1, 7))
    assert not books.get(2).is_settled
    books.step(2, (1,))
    assert books.get(2).is_settled


def test_nothing_stays_of_a_stage_that_ends(books: Books) -> None:
    books.open(2, 14)
    books.sessions.begin_step([Part(2, 0, 1)])
    books.sessions.close([2])
    books.sessions.close_all()
    books.sessions.end_step()
    assert books.kv.budget.reserved_bytes == books.kv.budget.spare_bytes == 0 and books.kv.extents == []
