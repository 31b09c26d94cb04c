"""A ring of real stages in this process whose units are parted anew at any moment: the test is its coordinator.

What stages send takes a random while, and may arrive after the ring was changed: it is refused then, and goes on along
the new one, as over a network, or is lost. Stages may be kept ready, which copy what those of the ring know, and become
part of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

import torch
from one_stage import CHUNK_TOKENS
from tiny_models import TinyModel

from shardnet.codecs.rows import Codec, codec_named
from shardnet.errors import BadRequest, ClusterError
from shardnet.models import Shard
from shardnet.policy.mending import catch_up
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.sent_log import kept_by
from shardnet.stage.stage import Stage
from shardnet.timeline.recorder import Recorder
from shardnet.transport.messages import Copied, CopyWanted, Hop, Part, RingId, Wanted
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec


class Request(NamedTuple):
    """What a session is started with."""

    prompt: list[int]
    max_new_tokens: int
    sampling: SamplingOptions = SamplingOptions()

    def spec(self, session: int, ids: Sequence[int], send_from: int = 0) -> SessionSpec:
        """With so much known of its answer."""
        capacity = len(self.prompt) + self.max_new_tokens
        history = tuple(ids) if self.sampling.repetition_penalty != 1.0 else ()
        size = len(self.prompt)
        return SessionSpec(
            session, capacity, size, len(ids), self.max_new_tokens, (), self.sampling, history, send_from
        )


class Sent(NamedTuple):
    """On its way."""

    version: int
    sender: Member
    parts: tuple[Part, ...]
    rows: torch.Tensor
    unit: int
    on_taken: Callable[[], None] | None


class Member:
    """A stage, and the outlet of it."""

    def __init__(self, ring: ShapedRing, shard: Shard, codec: Codec) -> None:
        self._ring = ring
        kv = KVCache(shard.kv_layout, shard.kv_row_dtype, ring.budget, kept_by(shard, codec))
        recorder = Recorder("here", 0)
        self.stage = Stage(shard, kv, recorder, self, chunk_tokens=CHUNK_TOKENS, num_threads=1, sent_as=codec)

    @property
    def units(self) -> range:
        return range(self.stage.shard.first_unit, self.stage.shard.last_unit + 1)

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self._ring.send(Sent(self._ring.version, self, parts, rows, self.stage.shard.next_unit, None))

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        self._ring.send(Sent(self._ring.version, self, parts, rows, self.stage.shard.next_unit, on_taken))

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self._ring.tell(tokens)

    def session_failed(self, session: int, error: BadRequest) -> None:
        self._ring.errors.append(error)

    def failed(self, error: BaseException) -> None:
        self._ring.errors.append(error)


class ShapedRing:
    """A context manager. `split` says how many units each of the first stages has.

    Args:
        codec_of: in what a stage with that last unit sends, when it is made or enters a ring.
        kv_dtype: in what keys and values are kept.
    """

    def __init__(
        self,
        model: TinyModel,
        split: Sequence[int],
        random: Random,
        codec_of: Callable[[int], Codec] = lambda _: codec_named("float32"),
        kv_dtype: str = "auto",
    ) -> None:
        self._codec_of = codec_of
        self._kv_dtype = kv_dtype
        self.budget = MemoryBudget(1 << 24)
        self.version = 0
        self.errors: list[BaseException] = []
        self.told: dict[int, dict[int, int]] = {}
        self.requests: dict[int, Request] = {}
        self._model = model
        self._random = random
        self._on_road: list[Sent] = []
        self._most_told = 1 << 30
        self._news = threading.Condition()
        self._is_over = False
        self.members: list[Member] = []
        self.ready: list[Member] = []
        """Kept ready, in no ring."""
        self._answers: list[tuple[Member, CopyWanted, Copied]] = []
        """What was copied since the last change."""
        for num_units in split:
            first = self.members[-1].units.stop if self.members else 0
            self.members.append(self.new(first, first + num_units - 1))
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()

    def new(self, first: int, last: int) -> Member:
        """A stage of its own, with weights of its own, in no ring yet."""
        from shardnet.loader import load_shard

        model = self._model
        tensors = model.files.tensors_of(first, last)
        shard = load_shard(model.files.config, tensors, first, last, "float32", kv_dtype=self._kv_dtype)
        return Member(self, shard, self._codec_of(last))

    # ---- sessions ----

    def start(self, session: int, request: Request) -> None:
        self.requests[session], self.told[session] = request, {}
        for member in self.members:
            member.stage.open_session(request.spec(session, request.prompt))
        self._feed(session, 0, request.prompt)

    def stand_at(self, num_tokens: int) -> None:
        """Nothing travels when so many tokens were told of all sessions together."""
        with self._news:
            self._most_told = num_tokens
            self._news.notify_all()

    def wait_for(self, num_tokens: int) -> None:
        """Until so many were told of all sessions together, or all are."""
        with self._news:
            enough = min(num_tokens, sum(request.max_new_tokens for request in self.requests.values()))
            is_there = self._news.wait_for(
                lambda: self.errors or sum(map(len, self.told.values())) >= enough, timeout=20
            )
        assert is_there and not self.errors, (self.errors, self.told)

    def answers(self) -> list[list[int]]:
        self.wait_for(1 << 30)
        return [[told[index] for index in range(len(told))] for told in self.told.values()]

    def end_sessions(self) -> None:
        for member in self.ready:
            member.stage.between_steps(partial(member.stage.followed.drop_others, ())).result(5)
        for member in self.members:
            member.stage.close_sessions(tuple(self.requests))
            member.stage.between_steps(lambda: None).result(5)

    # ---- what is kept ready ----

    def keep_ready(self, first: int, last: int) -> None:
        self.ready.append(self.new(first, last))

    def copy_some(self) -> None:
        """One piece of any size by anyone from anyone; now and then an answer comes once more."""
        follower, owner = self._random.choice(self.ready), self._random.choice(self.members)
        self._copy(follower, owner, self._random.choice((1, 2000, 10**6)))
        if self._answers and self._random.random() < 0.3:
            self._take(*self._random.choice(self._answers))

    def _copy(self, follower: Member, owner: Member, most_bytes: int) -> bool:
        """Whether that was all."""
        first, last = max(follower.units[0], owner.units[0]), min(follower.units[-1], owner.units[-1])
        if first > last:
            return True
        ask = partial(follower.stage.followed.wanted, first, last, most_bytes=most_bytes, patience_s=0.01)
        wanted = follower.stage.between_steps(ask).result(5)
        copied = owner.stage.when_idle(partial(owner.stage.copies.read, wanted), wanted.patience_s).result(5)
        self._answers.append((follower, wanted, copied))
        return self._take(follower, wanted, copied)

    def _take(self, follower: Member, wanted: CopyWanted, copied: Copied) -> bool:
        return follower.stage.between_steps(partial(follower.stage.followed.take, wanted, copied)).result(5)

    def _ready_for(self, run: Sequence[int]) -> Member | None:
        """One that has the first of these units, and no others than these."""
        for member in self.ready:
            if member.units[0] == run[0] and member.units[-1] in run:
                self.ready.remove(member)
                return member
        return None

    def _pull(self, taken: Sequence[Member], owners: Sequence[Member]) -> None:
        """For a last time, from those that are there; what is lacking is sent."""
        for member in taken:
            if self._random.random() < 0.7:
                for owner in reversed(owners):
                    while not self._copy(member, owner, 2000):
                        pass
                member.stage.between_steps(member.stage.followed.end).result(5)

    # ---- what changes ----

    def part_anew(self, borders: Sequence[int], owner_of: Callable[[int], Member | None]) -> None:
        """One round: the stages that begin at these units, made of parts of those that there are, and of new ones.

        Args:
            owner_of: which of the stages' units go on in a new ring; None for a unit that is lost with its stage.
        """
        runs = [range(first, end) for first, end in zip(borders, [*borders[1:], self._model.num_units], strict=True)]
        before = self.ready.copy()
        parts = [self._parts_of(run, owner_of) for run in runs]
        with self._news:
            self.version += 1
        self._answers.clear()
        there = {owner_of(unit) for unit in range(self._model.num_units)}
        self._pull(
            [each for each in before if each not in self.ready], [each for each in self.members if each in there]
        )
        self._answers.clear()
        gone = [each for each in self.members if all(each is not part for row in parts for _, part in row)]
        members = []
        for row in parts:
            for units, member in row:
                stage, codec = member.stage, self._codec_of(units[-1])
                if units[-1] == member.units[-1]:
                    stage.between_steps(lambda s=stage, c=codec: s.send_as(c)).result(5)
                for _ in range(self._random.choice((1, 2))):  # told twice
                    stage.between_steps(lambda s=stage, u=units, c=codec: s.trim(u[0], u[-1], c)).result(5)
            (_, first), *others = row
            for _, other in others:
                remains = other.stage.between_steps(other.stage.end_for_another).result(5)
                first.stage.between_steps(lambda s=first.stage, r=remains: s.join(r)).result(5)
            members.append(first)
        with self._news:
            self.members = members
        for member in gone:
            member.stage.close()
        self._catch_up()

    def _parts_of(self, run: range, owner_of: Callable[[int], Member | None]) -> list[tuple[range, Member]]:
        found: list[tuple[range, Member]] = []
        unit = run.start
        while unit < run.stop:
            owner = owner_of(unit)
            if found and owner is found[-1][1]:
                found[-1] = range(found[-1][0][0], unit + 1), owner
            else:
                owner = owner or self._ready_for(self._lost(run[unit - run.start :], owner_of)) or self.new(unit, unit)
                end = unit + 1 if owner in self.members else owner.units.stop
                found.append((range(unit, end), owner))
            unit = found[-1][0].stop
        return found

    def _lost(self, run: range, owner_of: Callable[[int], Member | None]) -> range:
        """The first of these units, as far as nobody has them."""
        return range(run.start, next((unit for unit in run if owner_of(unit) is not None), run.stop))

    def _catch_up(self) -> None:
        """As `cluster.handover` does it."""
        standings = [
            {each.session: each for each in member.stage.between_steps(member.stage.standings).result(5)}
            for member in self.members
        ]
        known = {}
        for session, request in self.requests.items():
            told = self.told[session]
            known[session] = (*request.prompt, *(told[index] for index in range(len(told))))
        needed = catch_up(known, standings)
        for session, ids in needed.histories.items():
            start = len(self.requests[session].prompt)
            self.tell(tuple(SampledToken(session, at, each, "") for at, each in enumerate(ids[start:])))
        going_on = {session for session, ids in needed.histories.items() if not self._is_whole(session, ids)}
        for stage, session, send_from in needed.openings:
            if session in going_on:
                spec = self.requests[session].spec(session, needed.histories[session], send_from)
                self.members[stage].stage.open_session(spec)
        for index, member in enumerate(self.members):
            due = [each for each in needed.resendings if each.stage == index and each.session in going_on]
            wanted = [Wanted(each.session, each.position) for each in due]
            stage = member.stage
            stage.between_steps(lambda s=stage, w=wanted: s.send_again(w)).result(5)
        for session, position in needed.feedings:
            if session in going_on:
                self._feed(session, position, needed.histories[session])

    def _is_whole(self, session: int, ids: Sequence[int]) -> bool:
        request = self.requests[session]
        return len(ids) >= len(request.prompt) + request.max_new_tokens

    # ---- the network ----

    def _feed(self, session: int, position: int, ids: Sequence[int]) -> None:
        rows = torch.tensor(list(ids[position:]))
        hop = Hop(RingId(b"", self.version), 0, (Part(session, position, len(rows)),), rows, "source", 0, 0)
        self.members[0].stage.put(hop, 0, lambda: None)

    def send(self, sent: Sent) -> None:
        with self._news:
            self._on_road.append(sent)
            self._news.notify_all()

    def tell(self, tokens: tuple[SampledToken, ...]) -> None:
        with self._news:
            for token in tokens:
                told = self.told[token.session].setdefault(token.index, token.token_id)
                if told != token.token_id:
                    self.errors.append(AssertionError(f"{token} was told as {told} before"))
            self._news.notify_all()

    def _carry(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._may_travel() or self._is_over)
                if self._is_over:
                    return
                sent = self._on_road.pop(self._random.randrange(len(self._on_road)))
                receiver = self._receiver(sent)
            if receiver is not None:
                hop = Hop(RingId(b"", sent.version), 0, sent.parts, sent.rows, "here", 0, sent.unit)
                try:
                    receiver.stage.put(hop, 0, sent.on_taken)
                except ClusterError:  # it has just ended
                    pass
                except BadRequest as error:
                    self.errors.append(error)

    def _may_travel(self) -> bool:
        return bool(self._on_road) and sum(map(len, self.told.values())) < self._most_told

    def _receiver(self, sent: Sent) -> Member | None:
        """The one behind the sender, in the present ring; None where that is no part of it, or it is lost."""
        if sent.version != self.version and self._random.random() < 0.3:
            return None
        for index, member in enumerate(self.members):
            if member is sent.sender:
                return self.members[(index + 1) % len(self.members)]
        return None

    def __enter__(self) -> ShapedRing:
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._is_over = True
            self._news.notify_all()
        self._carrier.join()
        for member in (*self.members, *self.ready):
            member.stage.close()
