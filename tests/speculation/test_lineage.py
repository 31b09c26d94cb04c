"""A ring on paper, whose stages go by the rules of `lineage`: parts come in any order and twice, guesses are right or
wrong, several chunks are in flight, stages are lost at any moment, and copies take their places. A row carries all ids
up to its own: so it is seen at once where a stage puts one behind others than its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.policy.mending import catch_up
from shardnet.speculation.ahead import Ahead
from shardnet.speculation.lineage import (
    Line,
    begun_anew,
    confirmed,
    first_branch,
    is_stale,
    moved,
    reach,
    sent_then,
)
from shardnet.speculation.tags import TAG_BYTES, cut, tag, tags_of
from shardnet.transport.listener_messages import digest
from shardnet.transport.messages import Part, SessionStanding

PROMPT = (1, 0, 1)
NUM_TOKENS = 14
CAPACITY = len(PROMPT) + NUM_TOKENS
KEY = b"k" * 16

Row = tuple[int, ...]
"""All ids up to this token's."""


def next_id(prefix: Sequence[int]) -> int:
    """What is sampled: one of two, so that a wrong guess is often followed by a right one."""
    return zlib.crc32(bytes(prefix)) & 1


def truth() -> tuple[int, ...]:
    ids = PROMPT
    while len(ids) < CAPACITY:
        ids += (next_id(ids),)
    return ids


TRUTH = truth()


class Message(NamedTuple):
    to: int
    part: Part
    rows: tuple[Row, ...]


class Stage:
    """One that is neither first nor last."""

    def __init__(self, index: int, road: list[Message], random: Random) -> None:
        self.index, self.road, self.random = index, road, random
        self.line = Line()
        self.rows: list[Row] = []
        self.tags: dict[int, bytes] = {}
        self.next_sent = self.told = 0
        self.waiting: list[Message] = []
        self.is_held = False
        """A copy takes part in nothing before it is told what the next stage has."""

    def look(self) -> bool:
        """Apply what can be applied of what waits; whether anything was."""
        if self.is_held:
            return False
        for message in self.random.sample(self.waiting, len(self.waiting)):
            if is_stale(self.line, message.part):
                self.waiting.remove(message)
            elif (common := reach(self.line, message.part)) is not None:
                self.waiting.remove(message)
                self.apply(message, common)
                return True
        return False

    def apply(self, message: Message, common: int) -> None:
        part = message.part
        before, self.line = self.line, moved(self.line, part, common)
        del self.rows[common:]
        self.turn(before)
        if part.end <= common:
            return
        rows, tags = message.rows[common - part.position :], cut(part.tags, part.num_tokens, common - part.position)[1]
        for row in rows:
            assert row[:-1] == (self.rows[-1] if self.rows else ()), "a row of another lineage"
            self.rows.append(row)
        num_tags = len(tags) // TAG_BYTES
        self.tags = {at: one for at, one in self.tags.items() if at < common}
        for number in range(num_tags):
            self.tags[part.end - num_tags + number] = tags[number * TAG_BYTES : (number + 1) * TAG_BYTES]
        self.line = self.line._replace(length=part.end)
        self.go_on()

    def turn(self, before: Line) -> None:
        """It has another line."""
        self.next_sent = sent_then(self.next_sent, self.told, before, self.line)

    def go_on(self) -> None:
        """Send what the next stage has not got, in chunks."""
        line = self.line
        while self.next_sent < line.length:
            end = min(line.length, self.next_sent + self.random.randint(1, 4))
            num_guesses = max(end - line.certain, 0)
            tags = b"".join(self.tags[at] for at in range(max(line.certain, self.next_sent), end))
            size = end - self.next_sent
            part = Part(0, self.next_sent, size, line.branch, line.branch_from, num_guesses, tags)
            self.road.append(Message(self.index + 1, part, tuple(self.rows[self.next_sent : end])))
            self.told = max(self.told, min(line.certain, end))
            self.next_sent = end

    def switch(self, version: int) -> None:
        self.line = begun_anew(self.line, first_branch(version))
        del self.rows[self.line.length :]

    def standing(self) -> SessionStanding:
        return SessionStanding(0, self.line.safe, 0, ())

    def resend(self, position: int, _known: int) -> None:
        self.next_sent = self.told = position
        self.is_held = False
        self.go_on()
        while self.look():
            pass


class First(Stage):
    """The ring's first one: ids become rows, and guesses are put behind them."""

    guess_from = len(PROMPT)

    def __init__(self, index: int, road: list[Message], random: Random) -> None:
        super().__init__(index, road, random)
        self.ahead = Ahead()

    def look(self) -> bool:
        if self.is_held:
            return False
        for message in self.random.sample(self.waiting, len(self.waiting)):
            position = message.part.position
            if position <= self.line.certain:
                self.waiting.remove(message)
                ids = [row[-1] for row in message.rows][self.line.certain - position :]
                self.take(ids)
                return True
        return False

    def take(self, ids: Sequence[int]) -> None:
        guessed = [row[-1] for row in self.rows[self.line.certain :]]
        before = self.line
        self.line, num_right = confirmed(before, guessed, ids)
        fed = ids[num_right:]
        known = [row[-1] for row in self.rows[self.ahead.num_known : before.certain]]
        self.ahead.know([*known, *ids])
        if not fed:
            return
        del self.rows[self.line.length :]
        self.next_sent = sent_then(self.next_sent, self.told, before, self.line)
        for each in fed:
            self.rows.append((*self.rows[-1], each) if self.rows else (each,))
        length = len(self.rows)
        self.line = self.line._replace(length=length, certain=length)
        self.guess(self.random.randint(0, 4))

    def guess(self, most: int) -> None:
        """Behind what is here; called again while these are on their way."""
        if self.line.certain >= self.guess_from and self.ahead.num_known == self.line.certain:
            self.offer()
            for guess in self.ahead.take(min(most, CAPACITY - 1 - len(self.rows))):
                self.tags[len(self.rows)] = tag(KEY, self.line.branch, len(self.rows), guess)
                self.rows.append((*self.rows[-1], guess))
        self.line = self.line._replace(length=len(self.rows))
        self.go_on()

    def offer(self) -> None:
        """Guesses come from elsewhere, and begin with what was known there: it may be known here by now, or wrong."""
        at = self.random.randint(max(self.line.certain - 2, 1), self.ahead.end)
        row = tuple(self.ahead[each] for each in range(at))
        before, ids = digest(row), list[int]()
        for _ in range(self.random.randint(0, 6)):
            likely = next_id((*row, *ids))
            ids.append(likely if self.random.random() < 0.7 else 1 - likely)
        self.ahead.offer(at, before, ids, [1] * len(ids))

    def standing(self) -> SessionStanding:
        return SessionStanding(0, self.line.safe, 0, tuple(row[-1] for row in self.rows[: self.line.safe]))

    def switch(self, version: int) -> None:
        super().switch(version)
        self.guess_from = CAPACITY
        self.ahead.give_up()

    def resend(self, position: int, known: int) -> None:
        self.guess_from = max(len(PROMPT), known)
        super().resend(position, known)


class Head(Stage):
    """The last one: it samples, and tells the first one."""

    def __init__(self, index: int, road: list[Message], random: Random, known: Sequence[int]) -> None:
        super().__init__(index, road, random)
        self.known = len(known)
        self.sampled: list[int] = []
        self.next_sent = self.known

    @property
    def sample_from(self) -> int:
        return self.known + len(self.sampled)

    def go_on(self) -> None:
        """Sample row after row, as long as what was fed there is what was sampled."""
        length = 0
        for position, row in enumerate(self.rows):
            if position >= self.line.certain:
                is_known = self.known <= position < self.sample_from
                if not is_known:
                    break
                mine = tag(KEY, self.line.branch, position, self.sampled[position - self.known])
                if mine != self.tags[position]:
                    break
            length = position + 1
            if length == self.sample_from and length < CAPACITY:
                self.sampled.append(next_id(row))
        del self.rows[length:]
        self.line = self.line._replace(length=length, certain=length)
        self.send_ids()

    def turn(self, before: Line) -> None:
        """What it sends are ids, of no branch."""

    def send_ids(self) -> None:
        if self.next_sent < self.sample_from:
            ids = self.sampled[self.next_sent - self.known :]
            rows = tuple((each,) for each in ids)
            self.road.append(Message(0, Part(0, self.next_sent, len(ids)), rows))
            self.next_sent = self.sample_from

    def standing(self) -> SessionStanding:
        return SessionStanding(0, self.line.safe, self.known, tuple(self.sampled), self.known)

    def resend(self, position: int, _known: int) -> None:
        self.next_sent = max(position, self.known)
        self.send_ids()


class Ring:
    """And its source."""

    def __init__(self, num_stages: int, random: Random) -> None:
        self.random = random
        self.road: list[Message] = []
        self.version = 0
        self.answer: tuple[int, ...] = ()
        self.last = num_stages - 1
        self.stages = [self.new(index, PROMPT) for index in range(num_stages)]
        self.copies: dict[int, Stage] = {}
        self.feed(PROMPT, 0)

    def new(self, index: int, history: Sequence[int]) -> Stage:
        if index == self.last:
            return Head(index, self.road, self.random, history)
        return (Stage if index else First)(index, self.road, self.random)

    def feed(self, ids: Sequence[int], position: int) -> None:
        rows = tuple((each,) for each in ids[position:])
        self.road.append(Message(0, Part(0, position, len(rows)), rows))

    def carry(self) -> None:
        message = self.road.pop(self.random.randrange(len(self.road)))
        if self.random.random() < 0.15:
            self.road.append(message)  # it is sent again
        self.put(message)

    def put(self, message: Message) -> None:
        stage = self.stages[message.to]
        stage.waiting.append(message)
        while stage.look():
            pass

    def hear(self) -> None:
        """The source hears what was sampled."""
        head = self.stages[self.last]
        assert isinstance(head, Head)
        told = len(PROMPT) + len(self.answer) - head.known
        if told >= 0:
            self.answer += tuple(head.sampled[told:])

    def copy(self, index: int) -> None:
        """A follower comes near: what it has is no guess, and it knows of which branch it is."""
        owner = self.stages[index]
        safe = owner.line.safe
        one = Stage(index, self.road, self.random) if index else First(index, self.road, self.random)
        one.rows, one.line = owner.rows[:safe], Line(owner.line.branch, safe, safe)
        one.is_held = True
        self.copies[index] = one

    def lose(self, lost: Sequence[int]) -> None:
        """One round, with whatever comes between its steps: others take the places of these. It may be broken off."""
        self.version += 1
        is_new = set()
        for index in lost:
            copy = self.copies.pop(index, None)
            self.stages[index] = copy or Stage(index, self.road, self.random)
            if copy is None:
                is_new.add(index)
            self.road[:] = [each for each in self.road if each.to != index or self.random.random() < 0.5]
        there = [index for index in range(self.last + 1) if index not in is_new]
        for index in self.random.sample(there, len(there)):
            self.meanwhile(there)
            self.stages[index].switch(self.version)
        standings: list[dict[int, SessionStanding]] = [{} for _ in self.stages]
        if self.random.random() < 0.2 and not is_new:
            return self.lose(())
        for index in self.random.sample(there, len(there)):
            self.meanwhile(there)
            standings[index] = {0: self.stages[index].standing()}
        needed = catch_up({0: PROMPT + self.answer}, standings)
        ids = needed.histories[0]
        self.answer = ids[len(PROMPT) :]
        known = max([len(ids), *(each[0].length for each in standings if 0 in each)])
        for opening in needed.openings:
            self.meanwhile(there)
            one = self.stages[opening.stage] = self.new(opening.stage, ids)
            one.switch(self.version)
            there = [*there, opening.stage]
        resendings = self.random.sample(needed.resendings, len(needed.resendings))
        for stage, _, position in resendings:
            self.meanwhile(there)
            self.stages[stage].resend(position, known)
            if self.random.random() < 0.1:
                return self.lose(())
        for _, position in needed.feedings:
            self.feed(ids, position)
        return None

    def meanwhile(self, there: Sequence[int]) -> None:
        """What is on the road arrives, at those who have sessions."""
        for message in self.random.sample(self.road, len(self.road) // 2):
            if message.to in there and message in self.road:
                self.road.remove(message)
                self.put(message)

    def more_guesses(self) -> None:
        """The first stage has nothing else to do."""
        first = self.stages[0]
        assert isinstance(first, First)
        if first.line.certain > len(PROMPT) and not first.is_held:
            first.guess(self.random.randint(1, 3))


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32), st.integers(0, 6))
def test_no_row_of_another_lineage_is_applied_and_all_tokens_come(num_stages: int, seed: int, num_losses: int) -> None:
    random = Random(seed)
    ring = Ring(num_stages, random)
    for _ in range(400):
        for _ in range(random.randint(1, 20)):
            if ring.road:
                ring.carry()
            if random.random() < 0.5:
                ring.hear()
            if random.random() < 0.2:
                ring.more_guesses()
            if num_stages > 2 and random.random() < 0.2:
                ring.copy(random.randrange(num_stages - 1))
        if num_losses:
            num_losses -= 1
            ring.lose(random.sample(range(num_stages), random.randint(0, num_stages)))
        if not ring.road:
            break
    ring.hear()
    assert PROMPT + ring.answer == TRUTH


def test_a_part_waits_for_those_before_it_in_its_branch() -> None:
    line = Line(branch=3, length=10, certain=8)
    assert reach(line, Part(1, 10, 2, branch=3)) == 10
    assert reach(line, Part(1, 11, 2, branch=3)) is None
    assert reach(line, Part(1, 9, 2, branch=4, branch_from=9)) == 9
    assert reach(line, Part(1, 10, 2, branch=4, branch_from=9)) is None
    assert reach(line, Part(1, 8, 2, branch=9, branch_from=9)) == 8
    assert reach(line, Part(1, 9, 2, branch=9, branch_from=9)) is None
    assert is_stale(line, Part(1, 10, 2, branch=2))


def test_who_knows_less_guesses_nothing_that_is_applied() -> None:
    line = Line(branch=3, length=10, certain=10)
    assert reach(line, Part(1, 10, 2, branch=9, num_guesses=3)) is None
    assert reach(line, Part(1, 4, 2, branch=9)) == 10


def test_what_was_guessed_right_is_not_applied_again() -> None:
    line = Line(branch=2, length=9, certain=6, branch_from=5)
    assert confirmed(line, [7, 8, 9], [7, 8]) == (Line(2, 9, 8, 5), 2)
    assert confirmed(line, [7, 8, 9], [7, 3]) == (Line(3, 7, 7, 7), 1)
    assert confirmed(line, [7, 8, 9], [7, 8, 9, 4]) == (Line(2, 9, 9, 5), 3)


def test_tags_tell_guesses_apart_and_are_cut_with_them() -> None:
    tags = tags_of(KEY, 1, 5, [3, 4, 5])
    assert len({tags[:8], tags_of(KEY, 2, 5, [3]), tags_of(KEY, 1, 6, [3]), tags_of(b"x" * 16, 1, 5, [3])}) == 4
    assert cut(tags, 4, 1) == (b"", tags)
    assert cut(tags, 4, 2) == (tags[:8], tags[8:])
    assert cut(tags, 3, 3) == (tags, b"")
