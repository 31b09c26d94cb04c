"""Copies of sessions at another stage: bit by bit what the owners have, whatever is cut, repeated, closed or late."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from one_stage import Road, feed, nothing, shard_of, spec, stage_of, standing, wait_for_length

from shardnet.errors import BadRequest
from shardnet.stage.sampling import Sampler
from shardnet.stage.stage import Stage
from shardnet.transport.messages import Copied, CopyWanted, Hop, Part, RingId
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec
from shardnet.transport.sharing_messages import Shares

RING = RingId(b"epoch", 1)
FIRST, LAST = (0, 2), (3, 5)
"""Units of the two owners."""
NUM_TOKENS = 6
SAMPLINGS = (SamplingOptions(), SamplingOptions(temperature=0.9, top_k=40, repetition_penalty=1.3, seed=5))


class ToNext:
    """An outlet to the other one of two stages."""

    def __init__(self) -> None:
        self.next: Stage
        self.told: dict[int, list[int]] = {}
        self._news = threading.Condition()

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self.next.put(Hop(RING, 0, parts, rows, "here", 0, self.next.shard.first_unit), 0)

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        self.next.put(Hop(RING, 0, parts, rows, "here", 0, self.next.shard.first_unit), 0, on_taken)

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        with self._news:
            for token in tokens:
                self.told.setdefault(token.session, []).append(token.token_id)
            self._news.notify_all()

    def wait_for(self, sessions: set[int]) -> None:
        """Until all has been told of these."""
        with self._news:
            assert self._news.wait_for(lambda: all(len(self.told.get(one, ())) == NUM_TOKENS for one in sessions), 20)

    def session_failed(self, session: int, error: BadRequest) -> None:
        raise AssertionError(error)

    def failed(self, error: BaseException) -> None:
        raise AssertionError(error)


class Owners(NamedTuple):
    """A ring of two stages."""

    first: Stage
    last: Stage
    road: ToNext

    def start(self, session: int, prompt: list[int], sampling: SamplingOptions) -> None:
        size = len(prompt)
        opened = SessionSpec(session, size + NUM_TOKENS, size, size, NUM_TOKENS, (), sampling, tuple(prompt))
        for stage in self[:2]:
            stage.open_session(opened)
        hop = Hop(RING, 0, (Part(session, 0, size),), torch.tensor(prompt), "source", 0, 0)
        self.first.put(hop, 0, nothing)


@pytest.fixture
def owners(tiny: Path) -> Iterator[Owners]:
    with ExitStack() as resources:
        road = ToNext()
        stages = [resources.enter_context(stage_of(shard_of(tiny, *units), road)) for units in (FIRST, LAST)]  # type: ignore[arg-type]
        roads = [road, ToNext()]
        roads[1].told, roads[1]._news = road.told, road._news
        stages[1]._outlet = stages[1]._onward._outlet = roads[1]
        roads[0].next, roads[1].next = stages[1], stages[0]
        yield Owners(*stages, road)


class Follower:
    """A stage and those that it follows, asked piece by piece."""

    def __init__(self, stage: Stage, owners: Owners, chance: random.Random) -> None:
        self.stage = stage
        self._chance = chance
        self._old: list[tuple[CopyWanted, Copied]] = []
        shard = stage.shard
        self._sources: list[tuple[Stage, int, int]] = []
        for owner in (owners.last, owners.first):
            first = max(owner.shard.first_unit, shard.first_unit)
            last = min(owner.shard.last_unit, shard.last_unit)
            if first <= last:
                self._sources.append((owner, first, last))

    def look(self) -> None:
        """One piece of any size from any owner; now and then an old answer comes once more."""
        self._copy(*self._chance.choice(self._sources), self._chance.choice((1, 3000, 10**6)))
        if self._old and self._chance.random() < 0.3:
            self._take(*self._chance.choice(self._old))

    def catch_up(self) -> None:
        """All that there is."""
        for source in self._sources:
            while not self._copy(*source, 3000):
                pass

    def _copy(self, owner: Stage, first: int, last: int, most_bytes: int) -> bool:
        ask = partial(self.stage.followed.wanted, first, last, most_bytes=most_bytes, patience_s=0.05)
        wanted = self.stage.between_steps(ask).result(timeout=5)
        copied = owner.when_idle(partial(owner.copies.read, wanted), wanted.patience_s).result(timeout=5)
        self._old.append((wanted, copied))
        return self._take(wanted, copied)

    def _take(self, wanted: CopyWanted, copied: Copied) -> bool:
        return self.stage.between_steps(partial(self.stage.followed.take, wanted, copied)).result(timeout=5)


def check(follower: Stage, owners: Owners, session: int) -> None:
    """That a session is at the follower what it is at the owners, bit by bit."""
    found, length = follower.kv.export(session), follower.kv.get(session).length
    lengths = [owner.kv.get(session).length for owner in owners[:2]]
    assert lengths == [length, length]
    for owner in owners[:2]:
        for layer, tensors in owner.kv.export(session).items():
            if layer in found:
                assert all(map(torch.equal, tensors, found.pop(layer))), (session, layer)
    assert not found
    known, shard = standing(follower, session), follower.shard
    assert known.is_copy
    if shard.last_unit == FIRST[1]:
        sent = owners.first.kv.get(session).kept(0, length)
        assert known.kept_from == 0 and torch.equal(follower.kv.get(session).kept(0, length), sent)
    elif not shard.has_head:
        assert known.kept_from == length
    if shard.has_head:
        samplers = [stage._sessions.get(session).sampler for stage in (owners.last, follower)]  # type: ignore[union-attr]
        assert samplers[1].num_drawn == samplers[0].num_drawn, "who takes over need not draw them first"  # type: ignore[union-attr]
    if shard.has_head and not shard.has_embedding:
        assert known[2:5] == standing(owners.last, session)[2:5]
    if shard.has_embedding and not shard.has_head:
        assert known.ids == standing(owners.first, session).ids


@pytest.mark.parametrize("units", [(0, 5), (0, 2), (3, 5), (1, 4), (2, 3), (1, 1), (5, 5), (0, 0), (4, 5), (2, 2)])
def test_a_copy_is_what_the_owners_have(owners: Owners, tiny: Path, units: tuple[int, int]) -> None:
    for seed in range(3):
        chance = random.Random(f"{units} {seed}")
        with stage_of(shard_of(tiny, *units), Road()) as stage:
            follower = Follower(stage, owners, chance)
            going_on: set[int] = set()
            for number in range(8):
                session = 10 * seed + number + 1
                prompt = [chance.randrange(5, 200) for _ in range(chance.choice((1, 5, 30)))]
                owners.start(session, prompt, chance.choice(SAMPLINGS))
                going_on.add(session)
                for _ in range(chance.randrange(6)):
                    follower.look()
                if chance.random() < 0.3:
                    gone = chance.choice(sorted(going_on))
                    going_on.discard(gone)
                    for owner in owners[:2]:
                        owner.close_sessions([gone])
                        follower.look()
                if chance.random() < 0.2:
                    stage.followed.drop_newest()
            owners.road.wait_for(going_on)
            for owner in owners[:2]:
                owner.between_steps(nothing).result(timeout=5)
            follower.catch_up()
            stage.between_steps(partial(stage.followed.drop_others, going_on)).result(timeout=5)
            assert {one.session for one in stage.between_steps(stage.standings).result(timeout=5)} == going_on
            for session in going_on:
                check(stage, owners, session)
            stage.between_steps(partial(stage.followed.drop_others, ())).result(timeout=5)
            assert stage.usage() == (0, 0) and stage.kv.extents == []
            for owner in owners[:2]:
                owner.close_sessions(sorted(going_on))


def test_a_copy_that_is_told_more_keeps_its_tokens_and_its_random_numbers(tiny: Path) -> None:
    """What others know of the answer is not sampled again, and a penalty sees it."""
    with stage_of(shard_of(tiny, *LAST), Road()) as stage:
        told = SessionSpec(1, 20, 3, 3, 9, (), SAMPLINGS[1], (5, 6, 7))
        live = stage._sessions.hold(told, Sampler(told, torch.float32))
        live.kv.length = live.certain = 4
        assert live.sampler is not None
        live.sampler.wind(2, 10)
        generator = live.sampler._generator
        stage.open_session(told._replace(sample_from=6, prompt_ids=(5, 6, 7, 8, 9, 10)))
        known = standing(stage, 1)
        assert known[1:] == (4, 6, (), 6, True)
        sampler = stage._sessions.all()[0].sampler
        assert sampler is not None and sampler._ids == [5, 6, 7, 8, 9, 10]
        assert sampler._generator is generator and sampler.num_drawn == 2


def test_what_stages_have_not_agreed_upon_is_not_copied(tiny: Path) -> None:
    """A session that begins with more of another one's tokens than it will keep: what is copied of it stays."""
    ids = torch.arange(50, 60)
    asked = CopyWanted(0, 2, True, (), (), 2**20, 0.0)
    with stage_of(shard_of(tiny, 0, 2), Road()) as stage:
        stage.open_session(spec(1, 10)._replace(stays=True))
        feed(stage, 1, 0, ids)
        wait_for_length(stage, 1, 10)
        stage.close_sessions([1])
        heir = spec(2, 12)
        assert stage.open_session(heir._replace(shares=Shares(1, 10, tuple(ids.tolist())))) == 10
        assert stage.between_steps(partial(stage.copies.read, asked)).result(5).sessions == ()
        assert stage.open_session(heir._replace(shares=Shares(1, 6))) == 6
        assert stage.between_steps(partial(stage.copies.read, asked)).result(5).opened == ()
        feed(stage, 2, 6, ids[:3])
        wait_for_length(stage, 2, 9)
        assert [one.session for one in stage.between_steps(partial(stage.copies.read, asked)).result(5).sessions] == [2]
