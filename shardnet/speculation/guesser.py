"""What is guessed of one conversation, and when how much of it goes round: with what is known, and behind it. Pure.

Every look-up is held to what comes, whether it was sent or not: how likely guesses are to be right is known without
any lap. Seconds are those of any steady clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from math import inf, prod
from operator import mul
from typing import NamedTuple

from shardnet.speculation.acceptance import DRAFTED, Acceptance, chances_of
from shardnet.speculation.ahead import Ahead
from shardnet.speculation.laps import Laps
from shardnet.speculation.lookup import LookUp
from shardnet.speculation.pays import HORIZON, MOST, Load, following_width, likely_width, width

DRAFT = "draft"
WAYS = ("off", "auto", "lookup", DRAFT)
"""How tokens can be guessed, as users say it."""
INDEXED = 512
"""Tokens of a prompt that are indexed at a time, lest others wait."""
MOST_CHUNKS = 8
"""Chunks of one session that are in flight at once."""
SURE = 0.6
"""Where all in flight is less likely to be right than that, no guess is computed when the next answer is due."""


class _Chunk(NamedTuple):
    """What was sent, and is not answered."""

    asks: int
    """It brings the token of this position first."""
    sent_s: float
    num_rows: int
    """Its own, and those of others that went with it."""
    is_first: bool
    """Of its branch: it brings what is known, too."""
    is_clear: bool
    """It shares no step with a prompt."""


class Guesser:
    """Of one session, at the ring's first stage.

    Args:
        way: one of `WAYS`, and not "off". With "auto" and "draft" guesses must pay by what laps take; else it is
            enough that they are likely. With "draft" nothing is looked up: guesses are those that are offered.
        laps: of the ring.
        most_tokens: that the session can have.
    """

    def __init__(self, way: str, laps: Laps, most_tokens: int) -> None:
        self.num_guessed = 0
        """Guesses that went round and were judged."""
        self.num_right = 0
        """Of these."""
        self._is_by_cost = way in ("auto", DRAFT)
        self._looks_up = way != DRAFT
        self._laps = laps
        self._index = LookUp(most_tokens if self._looks_up else 0)
        self._ahead = Ahead()
        self._acceptance = Acceptance()
        self._chunks: deque[_Chunk] = deque()
        self._was_followed = False
        """Guesses were sent behind the first of these."""
        self._asked_s = 0.0
        """When the last chunk was sent that is answered."""
        self._answered_s: float | None = None
        """When the last answer to a chunk of this branch came."""
        self._num_prompt: int | None = None

    @property
    def num_known(self) -> int:
        """Tokens that it has been told."""
        return self._ahead.num_known

    @property
    def num_in_flight(self) -> int:
        """Guesses."""
        return self._ahead.num_in_flight

    @property
    def num_waiting(self) -> int:
        """Guesses that may be sent."""
        return self._ahead.num_waiting

    @property
    def num_chunks(self) -> int:
        """In flight."""
        return len(self._chunks)

    def know(self, token_ids: Sequence[int], now_s: float) -> None:
        """These come next, and are no guesses: by them those in flight are judged."""
        if not token_ids:
            return
        num_right, num_sent = self._judge(token_ids)
        self.num_right += min(num_right, num_sent)
        is_wrong = num_right < len(token_ids)
        self.num_guessed += num_sent if is_wrong else min(num_right, num_sent)
        self._answer(now_s)
        if is_wrong:
            self._chunks.clear()
            self._answered_s, self._was_followed = None, False
        self._index_more(token_ids)

    def _judge(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """How many of them were guessed, and how many guesses were in flight."""
        ahead = self._ahead
        known, num_sent = ahead.num_known, ahead.num_in_flight
        kinds = [ahead.kind(at) for at in range(known, min(known + len(token_ids), ahead.end))]
        num_right = ahead.know(token_ids)
        for index, kind in enumerate(kinds[: num_right + 1]):
            if kind == DRAFTED:
                self._acceptance.note(kind, is_right=index < num_right)
        return num_right, num_sent

    def _answer(self, now_s: float) -> None:
        """Chunks whose first token is known now were answered."""
        answered: list[_Chunk] = []
        while self._chunks and self._chunks[0].asks < self.num_known:
            answered.append(self._chunks.popleft())
        for chunk in answered:
            if chunk.is_first:
                if chunk.is_clear:
                    self._laps.note_lap(chunk.num_rows, now_s - chunk.sent_s, is_followed=self._was_followed)
                self._was_followed = False
            elif self._answered_s is not None:
                apart_s = chunk.sent_s - self._asked_s
                self._laps.note_gap(chunk.num_rows, (now_s - self._answered_s) / len(answered), apart_s)
            self._asked_s = chunk.sent_s
        if answered:
            self._answered_s = now_s

    def _index_more(self, token_ids: Sequence[int]) -> None:
        """What comes first is a prompt, and says nothing of how likely guesses are."""
        if not self._looks_up:
            return
        if self._num_prompt is None:
            self._num_prompt = len(token_ids)
        first = len(self._index)
        for position in range(first, min(self.num_known, first + INDEXED)):
            token_id, distance, strength = self._ahead[position], self._index.distance, self._index.strength
            self._index.add(token_id)
            if distance and position >= self._num_prompt:
                self._acceptance.note(strength, is_right=self._index.strength > strength)

    def offer(self, position: int, before: int, ids: Sequence[int]) -> int:
        """Guesses of another model: see `Ahead.offer`."""
        return self._ahead.offer(position, before, ids)

    def begin(self, most: int, load: Load, num_others: int, now_s: float, *, is_clear: bool) -> tuple[list[int], float]:
        """Guesses that go with what is known now, up to `most`; none where that does not pay. They are sent.

        Args:
            load: what goes round with them, the last token that is known included.
            num_others: other sessions that are past their prompt.
            is_clear: no prompt is among that.

        Returns:
            The guesses, and how many of them are expected to be right.
        """
        num_waiting = min(self._look_up(), most, MOST)
        guesses, gain = list[int](), 0.0
        if num_waiting > 0:
            chances = self._chances()
            if self._is_by_cost:
                may_follow = load.num_rows == 1 and self._laps.has_gaps and self._num_chunks_at_most(num_others) > 1
                size = width(chances, num_waiting, load, self._laps, may_follow=may_follow)
            else:
                size = likely_width(chances, num_waiting)
            guesses, gain = self._ahead.take(size), sum(accumulate(chances[:size], mul))
        asks, num_rows = self.num_known, load.num_rows + len(guesses)
        self._note_sent(_Chunk(asks, now_s, num_rows, is_first=True, is_clear=is_clear))
        return guesses, gain

    def further(self, most: int, num_others: int, now_s: float) -> tuple[list[int], float]:
        """Guesses that go round behind those in flight, up to `most`: the stage has nothing else to do. They are sent.

        Returns:
            The guesses, or none and from when on there may be some, where nothing else comes.
        """
        none = list[int]()
        if not 0 < len(self._chunks) < self._num_chunks_at_most(num_others):
            return none, inf
        num_waiting = min(self._look_up(), most, MOST)
        if num_waiting < 1:
            return none, inf
        first, end = self.num_known, self._ahead.end - self._ahead.num_waiting
        in_flight = [self._acceptance.chance(self._ahead.kind(at)) for at in range(first, end)]
        size = following_width(in_flight, self._chances(), num_waiting, self._laps, by_cost=self._is_by_cost)
        if size == 0:
            return none, inf
        from_s = self._laps.next_s(size)
        step_s = self._laps.step_s(size)
        if prod(in_flight) < SURE and abs(self._due_s() - now_s) < step_s:
            from_s = max(from_s, self._due_s() + step_s)
        if from_s > now_s:
            return none, from_s
        guesses = self._ahead.take(size)
        self._was_followed = True
        self._note_sent(_Chunk(end + 1, now_s, size, is_first=False, is_clear=True))
        return guesses, now_s

    def _note_sent(self, chunk: _Chunk) -> None:
        self._chunks.append(chunk)
        self._laps.sent_s = chunk.sent_s

    def _num_chunks_at_most(self, num_others: int) -> int:
        """In flight: others have had their share of the ring."""
        return min(MOST_CHUNKS, self._laps.depth() - num_others)

    def _due_s(self) -> float:
        """When the next answer should come."""
        chunk = self._chunks[0]
        if chunk.is_first or self._answered_s is None:
            return chunk.sent_s + self._laps.followed_s(chunk.num_rows)
        return self._answered_s + self._laps.gap_s(chunk.num_rows)

    def _look_up(self) -> int:
        """Have as many guesses wait as may be sent; how many do."""
        ahead, distance = self._ahead, self._index.distance
        missing = MOST - ahead.num_waiting
        if self._looks_up and distance and missing > 0 and len(self._index) == self.num_known:
            end = ahead.end
            ids: list[int] = []
            for at in range(end - distance, end - distance + missing):
                ids.append(ahead[at] if at < end else ids[at - end])
            kind = self._index.strength + end - self.num_known
            ahead.offer(end, ahead.digest, ids, range(kind, kind + missing))
        return ahead.num_waiting

    def _chances(self) -> list[float]:
        """How likely each guess is that waits, and those that would follow."""
        ahead = self._ahead
        kinds = [ahead.kind(at) for at in range(ahead.end - ahead.num_waiting, ahead.end)]
        return chances_of(self._acceptance, kinds, HORIZON)

    def give_up(self) -> None:
        """There are no guesses any more, neither here nor in flight."""
        self._ahead.give_up()
        self._chunks.clear()
        self._was_followed, self._answered_s = False, None
