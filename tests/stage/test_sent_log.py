"""What a stage keeps of what it has sent, and how it sends it again: in order, in chunks, bit by bit the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from one_stage import CHUNK_TOKENS, Road, Sent, feed, nothing, shard_of, spec, stage_of, standing, wait_for_length
from processes import wait_until

from shardnet.codecs.rows import codec_named
from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.models import Segment, Shard
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.stage import Stage
from shardnet.transport.messages import MAX_BULK_CHUNKS, Part, Wanted

HIDDEN = 64


@pytest.fixture
def middle_shard(tiny: Path) -> Shard:
    return shard_of(tiny, 1, 2)


@pytest.fixture
def road() -> Road:
    return Road()


@pytest.fixture
def middle(middle_shard: Shard, road: Road) -> Iterator[Stage]:
    with stage_of(middle_shard, road) as stage:
        yield stage


@pytest.fixture
def first(tiny: Path, road: Road) -> Iterator[Stage]:
    with stage_of(shard_of(tiny, 0, 2), road) as stage:
        yield stage


@pytest.fixture
def last(tiny: Path, road: Road) -> Iterator[Stage]:
    with stage_of(shard_of(tiny, 3, 5), road) as stage:
        yield stage


@pytest.fixture
def whole(tiny: Path, road: Road) -> Iterator[Stage]:
    with stage_of(shard_of(tiny, 0, 5), road) as stage:
        yield stage


def hidden(num_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_tokens, HIDDEN, generator=torch.Generator().manual_seed(seed))


def resend(stage: Stage, *wanted: tuple[int, int]) -> None:
    stage.between_steps(lambda: stage.send_again([Wanted(*one) for one in wanted])).result(timeout=5)


def rows_by_position(hops: list[Sent], session: int) -> dict[int, torch.Tensor]:
    """What was sent of a session."""
    found = {}
    for parts, rows, _ in hops:
        for part, own in zip(parts, rows.split([part.num_tokens for part in parts]), strict=True):
            if part.session == session:
                found.update({part.position + index: row for index, row in enumerate(own)})
    return found


def taken(road: Road, num_rows: int) -> list[Sent]:
    """Take what comes, until so many rows have."""
    hops: list[Sent] = []

    def all_came() -> bool:
        for sent in road.take_all():
            hops.append(sent)
            (sent.on_taken or nothing)()
        return sum(len(sent.rows) for sent in hops) >= num_rows

    wait_until(all_came, 10)
    return hops


def same(rows: dict[int, torch.Tensor], others: dict[int, torch.Tensor]) -> bool:
    return rows.keys() == others.keys() and all(torch.equal(row, others[position]) for position, row in rows.items())


def test_what_was_sent_is_sent_again_bit_by_bit(middle: Stage, road: Road) -> None:
    middle.open_session(spec(1, 10))
    rows = hidden(12)
    feed(middle, 1, 0, rows[:10], nothing)
    sent = taken(road, 10)
    for position in (10, 11):
        feed(middle, 1, position, rows[position : position + 1])
    sent += taken(road, 2)
    for position in (0, 3, 11):
        resend(middle, (1, position))
        again = taken(road, 12 - position)
        assert same(
            rows_by_position(again, 1), {at: row for at, row in rows_by_position(sent, 1).items() if at >= position}
        )
        assert [sent.parts[0].num_tokens for sent in again[:-1]] == [CHUNK_TOKENS] * (len(again) - 1)
    resend(middle, (1, 12))
    middle.between_steps(nothing).result(timeout=5)
    assert road.hops == []


def test_at_most_two_bulk_hops_are_untaken_and_decoding_goes_on(middle: Stage, road: Road) -> None:
    for session in (1, 2):
        middle.open_session(spec(session, 20))
        feed(middle, session, 0, hidden(20), nothing)
    taken(road, 40)
    resend(middle, (1, 0))
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS, 5)
    feed(middle, 2, 20, hidden(1))
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS + 1, 5)
    middle.between_steps(nothing).result(timeout=5)
    *bulk, live = road.take_all()
    assert live.parts == (Part(2, 20, 1),) and live.on_taken is None
    for sent in bulk:
        assert sent.on_taken is not None
        sent.on_taken()
    again = [*bulk, *taken(road, 20 - 2 * CHUNK_TOKENS)]
    assert sorted(rows_by_position(again, 1)) == list(range(20))


def test_several_sessions_share_a_hop(middle: Stage, road: Road) -> None:
    for session in range(6):
        middle.open_session(spec(session, 3))
        feed(middle, session, 0, hidden(3, session), nothing)
    sent = taken(road, 18)
    resend(middle, *((session, 2) for session in range(6)), (77, 0))
    again = taken(road, 6)
    assert [len(one.parts) for one in again] == [4, 2]
    for session in range(6):
        assert same(rows_by_position(again, session), {2: rows_by_position(sent, session)[2]})


def test_of_small_chunks_more_wait_until_they_have_the_tokens_of_two_full_ones(middle: Stage, road: Road) -> None:
    size = CHUNK_TOKENS - 1
    middle.open_session(spec(1, 10 * size))
    for position in range(0, 10 * size, size):
        feed(middle, 1, position, hidden(size), nothing)
    num_waiting = -(-MAX_BULK_CHUNKS * CHUNK_TOKENS // size)
    for _ in range(3):
        wait_until(lambda: len(road.hops) == num_waiting, 5)
        middle.between_steps(nothing).result(timeout=5)
        assert [hop.parts[0].num_tokens for hop in road.hops] == [size] * num_waiting
        oldest = road.hops.pop(0)
        assert oldest.on_taken is not None
        oldest.on_taken()
    taken(road, 7 * size)
    assert middle._onward._window._num_untaken == 0


def test_hops_that_wait_for_what_is_sent_again_do_not_keep_it_back(middle: Stage, road: Road) -> None:
    """A new stage takes no chunk before it has the earlier ones: two of them there, and nothing would ever go on."""
    middle.open_session(spec(1, 24))
    rows = hidden(24)
    feed(middle, 1, 0, rows[:16], nothing)
    taken(road, 16)
    feed(middle, 1, 16, rows[16:], nothing)
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS, 5)
    early = road.take_all()
    resend(middle, (1, 0))
    again = taken(road, 24)
    assert sorted(rows_by_position(again, 1)) == list(range(24))
    for sent in early:  # taken at last: they count no more
        assert sent.on_taken is not None
        sent.on_taken()
    resend(middle, (1, 0))
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS, 5)
    middle.between_steps(nothing).result(timeout=5)
    assert len(road.hops) == MAX_BULK_CHUNKS


def test_what_is_computed_meanwhile_goes_behind_what_is_sent_again(middle: Stage, road: Road) -> None:
    middle.open_session(spec(1, 12))
    rows = hidden(13)
    feed(middle, 1, 0, rows[:12], nothing)
    taken(road, 12)
    resend(middle, (1, 0))
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS, 5)
    feed(middle, 1, 12, rows[12:])
    wait_for_length(middle, 1, 13)
    again = taken(road, 13)
    assert [part.position for sent in again for part in sent.parts] == [0, 4, 8, 12], "each row once, in order"


def test_what_the_next_stage_has_is_computed_and_kept_but_not_sent(middle_shard: Stage, tiny: Path) -> None:
    rows = hidden(14)
    roads = [Road(), Road()]
    for road, send_from in zip(roads, (0, 7), strict=True):
        with stage_of(shard_of(tiny, 1, 2), road) as stage:
            stage.open_session(spec(1, 12, send_from=send_from))
            feed(stage, 1, 0, rows[:12], nothing)
            sent = taken(road, 12 - send_from)
            feed(stage, 1, 12, rows[12:13])
            sent += taken(road, 1)
            assert sorted(rows_by_position(sent, 1)) == list(range(send_from, 13))
            resend(stage, (1, 0))
            road.hops += taken(road, 13)
    assert same(*(rows_by_position(road.hops, 1) for road in roads))


def test_a_resend_says_what_the_next_stage_has_from_now_on(middle: Stage, road: Road) -> None:
    """Also where nothing is to be sent yet: the next stage was lost that had more than this one."""
    middle.open_session(spec(1, 12, send_from=100))
    resend(middle, (1, 0))
    feed(middle, 1, 0, hidden(12), nothing)
    assert sorted(rows_by_position(taken(road, 12), 1)) == list(range(12))
    middle.open_session(spec(2, 12))
    resend(middle, (2, 10))
    feed(middle, 2, 0, hidden(12), nothing)
    assert sorted(rows_by_position(taken(road, 2), 2)) == [10, 11]


def test_a_session_that_ends_is_not_sent_again_any_more(middle: Stage, road: Road) -> None:
    for session in (1, 2):
        middle.open_session(spec(session, 20))
        feed(middle, session, 0, hidden(20), nothing)
    taken(road, 40)
    resend(middle, (1, 0), (2, 0))
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS, 5)
    middle.close_sessions([1])
    again = taken(road, 20 + 2 * CHUNK_TOKENS)
    assert sorted(rows_by_position(again, 1)) == list(range(2 * CHUNK_TOKENS))
    assert sorted(rows_by_position(again, 2)) == list(range(20))
    middle.close_sessions([2])
    middle.between_steps(nothing).result(timeout=5)
    assert middle.usage() == (0, 0) and middle.kv.extents == []


def test_the_first_stage_knows_the_ids_that_have_come(first: Stage, road: Road) -> None:
    first.open_session(spec(1, 30))
    ids = torch.arange(5, 35)
    feed(first, 1, 0, ids[:20], nothing)
    wait_for_length(first, 1, 8)
    feed(first, 1, 24, ids[24:26], nothing)
    feed(first, 1, 27, ids[27:30], nothing)
    assert standing(first, 1)[1:5] == (8, 0, tuple(range(5, 25)), 0), "there is a gap behind them"
    feed(first, 1, 18, ids[18:24], nothing)
    feed(first, 1, 26, ids[26:27])
    assert standing(first, 1).ids == tuple(range(5, 35)), "some wait, and some have come twice"
    taken(road, 30)
    assert standing(first, 1)[1:5] == (30, 0, tuple(range(5, 35)), 0)


def test_the_last_stage_knows_the_ids_that_it_has_sampled(last: Stage, road: Road) -> None:
    last.open_session(spec(1, 5, 3))
    rows = hidden(7)
    feed(last, 1, 0, rows[:5], nothing)
    assert standing(last, 1)[1:4] in ((0, 5, ()), (4, 5, ()), (5, 5, tuple(token.token_id for token in road.told)))
    wait_for_length(last, 1, 5)
    for position in (5, 6):
        feed(last, 1, position, rows[position : position + 1])
        wait_for_length(last, 1, position + 1)
    told = [token.token_id for token in road.told]
    assert len(told) == 3 and standing(last, 1)[1:4] == (7, 5, tuple(told)), "the answer's last one, too"
    road.take_all()
    for position in (5, 0):  # of the prompt it knows nothing
        resend(last, (1, position))
        [again] = taken(road, 2)
        assert again.parts == (Part(1, 5, 2),) and again.rows.tolist() == told[:2], (
            "the answer's last one does not go on"
        )
    resend(last, (1, 6))
    [again] = taken(road, 1)
    assert again.parts == (Part(1, 6, 1),) and again.rows.tolist() == told[1:2]


def test_a_stage_that_is_first_and_last_knows_what_either_knows(whole: Stage, road: Road) -> None:
    whole.open_session(spec(1, 5, 3))
    whole.open_session(spec(2, 9, 3))
    prompt = [5, 6, 7, 8, 9]
    feed(whole, 1, 0, torch.tensor(prompt), nothing)
    wait_until(lambda: len(road.told) == 1, 5)
    assert standing(whole, 1)[1:4] == (5, 0, (*prompt, road.told[0].token_id)), "its id is on the way to itself"
    resend(whole, (1, 5))
    again = taken(road, 2)
    assert [sent.parts for sent in again] == [(Part(1, 5, 1),)] * 2
    feed(whole, 2, 0, torch.tensor(prompt), nothing)
    wait_for_length(whole, 2, 5)
    assert standing(whole, 2)[1:4] == (5, 0, tuple(prompt))


def test_ids_are_sent_again_without_waiting_for_the_first_stage(last: Stage, road: Road) -> None:
    """It may wait for the next one to take a chunk, that one for its next, and the last of these for the head."""
    last.open_session(spec(1, 2, 20))
    for position, row in enumerate(hidden(18)):
        feed(last, 1, position, row[None], nothing)
        wait_for_length(last, 1, position + 1)
    road.take_all()
    resend(last, (1, 2))
    last.between_steps(nothing).result(timeout=5)
    again = road.take_all()
    assert [sent.parts[0].num_tokens for sent in again] == [4, 4, 4, 4, 1]
    assert all(sent.on_taken is None for sent in again)
    feed(last, 1, 18, hidden(1), nothing)
    wait_for_length(last, 1, 19)


@pytest.mark.parametrize("is_whole", [False, True])
def test_ids_that_are_sent_again_do_no_harm_at_the_first_stage(
    first: Stage, last: Stage, whole: Stage, road: Road, is_whole: bool
) -> None:
    """Neither those that it has, nor those that it has not come to, nor a ring of one stage's own."""
    head, begin = (whole, whole) if is_whole else (last, first)
    prompt = torch.tensor([5, 6, 7, 8, 9])
    for stage in {head, begin}:
        stage.open_session(spec(1, 5, 4))
    feed(begin, 1, 0, prompt, nothing)
    applied, ids = 0, []
    while len(road.told) < 4:
        for sent in road.take_all():
            (sent.on_taken or nothing)()
            if sent.rows.dtype != torch.int64:
                feed(last, 1, sent.parts[0].position, sent.rows, nothing)
                continue
            ids += [(at, int(row)) for at, row in rows_by_position([sent], 1).items()]
            for position, token_id in ids:
                feed(begin, 1, position, torch.tensor([token_id]))
        if standing(begin, 1).length > applied:
            applied = standing(begin, 1).length
            resend(head, (1, min(applied, 5)))
    known = [token.token_id for token in road.told]
    assert standing(begin, 1).ids[:8] == (*prompt.tolist(), *known[:3])
    assert len(ids) > len(set(ids)), "some were sent again"
    assert sorted({at for at, _ in ids}) == [5, 6, 7], "the answer's last one does not go on"


@pytest.mark.parametrize("codec", ["bfloat16", "int8", "fp8"])
def test_what_is_kept_is_what_was_sent(middle_shard: Shard, road: Road, codec: str) -> None:
    with stage_of(middle_shard, road, codec=codec) as stage:
        stage.open_session(spec(1, 6))
        feed(stage, 1, 0, codec_named(codec).encode(hidden(6)), nothing)
        sent = taken(road, 6)
        resend(stage, (1, 0))
        again = taken(road, 6)
    assert {sent.rows.dtype for sent in again} == {codec_named(codec).dtype}
    assert same(rows_by_position(sent, 1), rows_by_position(again, 1))


def test_what_is_kept_has_its_memory_reserved_with_the_session(middle_shard: Shard, road: Road) -> None:
    kv_bytes = middle_shard.kv_bytes_per_token
    sent_bytes = HIDDEN * 4
    with stage_of(middle_shard, road, budget=MemoryBudget(20 * (kv_bytes + sent_bytes))) as stage:
        stage.open_session(spec(1, 4, 8))
        assert stage.usage() == (1, 12 * (kv_bytes + sent_bytes))
        with pytest.raises(KVMemorySpent):
            stage.open_session(spec(2, 1, 8))  # without what it sends it would fit
        stage.open_session(spec(3, 4, 4))
        stage.close_sessions([1])
        stage.open_session(spec(4, 4, 8))
    assert stage.kv.budget.reserved_bytes == 0


def test_who_keeps_ids_has_their_memory_reserved_too(first: Stage, last: Stage, whole: Stage) -> None:
    sizes = [(stage.kv.bytes_per_token - stage.shard.kv_bytes_per_token) for stage in (first, last, whole)]
    assert sizes == [HIDDEN * 4 + 8, 8, 16]


def test_of_what_another_unit_has_sent_nothing_is_sent_again(middle: Stage, road: Road) -> None:
    """It is wrong for whoever asks now."""
    rows = hidden(8)
    middle.open_session(spec(1, 6))
    feed(middle, 1, 0, rows[:6], nothing)
    wait_for_length(middle, 1, 6)
    taken(road, 6)
    resend(middle, (1, 0))
    wait_until(lambda: len(road.hops) == MAX_BULK_CHUNKS, 5)
    middle.between_steps(lambda: middle.trim(1, 1, codec_named("float32"))).result(timeout=5)
    assert standing(middle, 1).kept_from == 6
    road.take_all()
    middle.open_session(spec(2, 6))
    feed(middle, 2, 0, rows[:6], nothing)
    wait_for_length(middle, 2, 6)
    taken(road, 6)
    for wanted in (((2, 0), (1, 5)), ((1, 0),)):
        with pytest.raises(BadRequest, match="kept from 6 on"):
            resend(middle, *wanted)
    feed(middle, 1, 6, rows[6:7])
    sent = taken(road, 1)
    resend(middle, (1, 6), (2, 3))
    again = taken(road, 4)
    assert same(rows_by_position(again, 1), rows_by_position(sent, 1))
    assert sorted(rows_by_position(again, 2)) == [3, 4, 5]


def test_a_session_of_which_too_little_is_kept_begins_anew(middle: Stage, road: Road) -> None:
    """Also in the midst of a step of it; to ask for what is there already changes nothing."""
    rows = hidden(30)
    middle.open_session(spec(1, 30))
    feed(middle, 1, 0, rows[:12], nothing)
    sent = taken(road, 12)
    reserved = middle.usage()
    [live] = middle._sessions.all()
    middle.between_steps(live.forget_sent).result(timeout=5)
    with pytest.raises(BadRequest, match="open already"):
        middle.open_session(spec(1, 30, send_from=12))
    feed(middle, 1, 12, rows[12:], nothing)
    anew = spec(1, 30, send_from=2)._replace(sample_from=31)
    middle.open_session(anew)
    middle.open_session(anew)
    road.take_all()
    resend(middle, (1, 2))
    assert standing(middle, 1)[1:5] == (0, 0, (), 0) and middle.usage() == reserved
    feed(middle, 1, 0, rows[:12], nothing)
    again = taken(road, 28)
    middle.open_session(anew)
    assert standing(middle, 1).length == 30
    expected = {at: row for at, row in rows_by_position(sent, 1).items() if at >= 2}
    found = rows_by_position(again, 1)
    assert sorted(found) == list(range(2, 30))
    assert same({at: found[at] for at in expected}, expected)


def test_a_step_counts_for_the_session_that_it_began_with() -> None:
    kv = KVCache([], torch.float32, kept=Kept(HIDDEN, torch.float32, 0))
    sessions = LiveSessions(kv)
    sessions.open(spec(1, 8), None)
    parts = [Part(1, 0, 4)]
    sessions.advance(parts, sessions.begin_step(parts), {})
    sessions.end_step()
    parts = [Part(1, 4, 2)]
    in_step = sessions.begin_step(parts)
    in_step[0].kept_from = 4
    sessions.open(spec(1, 8, send_from=1), None)
    sessions.advance(parts, in_step, {})
    [anew] = sessions.all()
    assert anew is not in_step[0] and (anew.kv.length, anew.kept_from) == (0, 0)
    sessions.end_step()
    sessions.close([1])
    assert kv.extents == [] and kv.reserved_bytes == 0


class NextStage:
    """Takes what comes in any order, as an inbox does: each row in its turn, and a bulk hop is begun with its last."""

    def __init__(self, sessions: list[int]) -> None:
        self.rows: dict[int, list[torch.Tensor]] = {session: [] for session in sessions}
        self._waiting: list[tuple[Sent, list[tuple[int, int, torch.Tensor]]]] = []

    def put(self, sent: Sent) -> None:
        own = sent.rows.split([part.num_tokens for part in sent.parts])
        self._waiting.append(
            (sent, [(part.session, part.position, rows) for part, rows in zip(sent.parts, own, strict=True)])
        )
        while self._look():
            pass

    def end(self) -> list[Sent]:
        """Lost; returns what had not been begun."""
        return [sent for sent, _ in self._waiting]

    def _look(self) -> bool:
        for index, (sent, pieces) in enumerate(self._waiting):
            if all(self._has_come(*piece) for piece in pieces):
                del self._waiting[index]
                (sent.on_taken or nothing)()
                return True
        return False

    def _has_come(self, session: int, position: int, rows: torch.Tensor) -> bool:
        known = self.rows.get(session)
        if known is None or position + len(rows) <= len(known):
            return True
        if position > len(known):
            return False
        known += rows[len(known) - position :]
        return True


class Play:
    """Random things happen to a stage and to the one behind it."""

    def __init__(self, stage: Stage, road: Road, seed: int) -> None:
        self.stage = stage
        self.road = road
        self.random = random.Random(seed)
        self.next = NextStage([])
        self.inputs: dict[int, torch.Tensor] = {}
        self.fed: dict[int, int] = {}
        self.on_road: list[Sent] = []
        self.num_opened = 0

    def open(self) -> None:
        self.num_opened += 1
        session, num_tokens = self.num_opened, self.random.randint(1, 30)
        num_there = self.random.choice((0, 0, self.random.randint(0, num_tokens)))
        self.stage.open_session(spec(session, num_tokens, send_from=num_there))
        self.inputs[session], self.fed[session] = hidden(num_tokens, session), 0
        known = self.expected(session)[:num_there]
        self.next.rows[session] = list(known)

    def feed(self) -> None:
        for session in [session for session, fed in self.fed.items() if fed < len(self.inputs[session])]:
            first = self.fed[session]
            end = min(len(self.inputs[session]), first + self.random.choice((1, 1, 3, 9)))
            self.fed[session] = end
            feed(self.stage, session, first, self.inputs[session][first:end], self.random.choice((nothing, None)))

    def pass_on(self) -> None:
        """Some of what is on the road comes, one or the other twice."""
        self.on_road += self.road.take_all()
        self.random.shuffle(self.on_road)
        for _ in range(self.random.randint(0, len(self.on_road))):
            sent = self.on_road.pop()
            self.next.put(sent)
            if self.random.random() < 0.2:
                self.next.put(sent._replace(on_taken=None))

    def close(self) -> None:
        if self.fed:
            session = self.random.choice(list(self.fed))
            self.stage.close_sessions([session])
            del self.fed[session], self.inputs[session], self.next.rows[session]

    def lose(self) -> None:
        """The next stage is lost; what had not been begun is told so, or goes to the new one."""
        lost, self.next = self.next, NextStage(list(self.fed))
        for sent in lost.end():
            if self.random.random() < 0.5:
                self.on_road.append(sent)
            elif sent.on_taken is not None:
                sent.on_taken()
        if self.random.random() < 0.5:
            self.pass_on()
        self.resend()

    def resend(self) -> None:
        for _ in range(self.random.choice((1, 1, 2))):
            resend(self.stage, *((session, len(rows)) for session, rows in self.next.rows.items()))

    def expected(self, session: int) -> torch.Tensor:
        shard, rows = self.stage.shard, self.inputs[session]
        kv = KVCache(shard.kv_layout, shard.dtype).open(0, len(rows))
        return shard.forward(rows, [Segment(kv, len(rows))])

    def settle(self) -> None:
        def all_came() -> bool:
            self.feed()
            self.pass_on()
            return all(len(rows) == len(self.inputs[session]) for session, rows in self.next.rows.items())

        wait_until(all_came, 10)


@pytest.mark.parametrize("seed", range(30))
def test_the_next_stage_gets_every_row_whatever_happens(middle: Stage, road: Road, seed: int) -> None:
    play = Play(middle, road, seed)
    for _ in range(60):
        happens = play.random.choice(
            [play.open, play.feed, play.feed, play.feed, play.pass_on, play.pass_on, play.lose, play.resend, play.close]
        )
        happens()
    play.settle()
    for session, rows in play.next.rows.items():
        assert torch.allclose(torch.stack(rows), play.expected(session), atol=1e-4), session
    middle.close_sessions(list(play.fed))
    middle.between_steps(nothing).result(timeout=5)
    assert middle.usage() == (0, 0) and middle.kv.extents == []
