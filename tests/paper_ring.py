"""A ring on paper for one conversation: stages that take a time by the number of rows, links, and the first stage's
guesser, which sends further chunks while its stage has nothing else to do. Seconds are the ring's.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from shardnet.speculation.depth import Depth
from shardnet.speculation.guesser import Guesser
from shardnet.speculation.laps import Laps
from shardnet.speculation.pays import Load
from shardnet.transport.listener_messages import digest


class Chunk(NamedTuple):
    branch: int
    end: int
    """Tokens of the session with these."""
    ids: list[int]
    certain: int
    """So many of the session are no guesses."""


class PaperDraft(NamedTuple):
    """Where the ring's tokens come as soon as at its first stage."""

    seconds: float
    """For a token."""
    link_s: float
    """To the first stage."""
    agrees: Callable[[int], bool]
    """Whether it says the token of this position, where all before it are right."""


class PaperRing:
    """
    Args:
        text: prompt and answer, which is what is sampled.
        costs: of each stage, the seconds for a step of so many rows.
        link_s: from each stage to the next one, and back to the first.
    """

    def __init__(
        self,
        text: Sequence[int],
        num_prompt: int,
        costs: Sequence[Callable[[int], float]],
        link_s: float,
        guesser: Guesser | None,
        laps: Laps,
        draft: PaperDraft | None = None,
    ) -> None:
        self.text, self.costs, self.link_s = list(text), costs, link_s
        self.guesser, self.laps, self.draft = guesser, laps, draft
        self.now_s = 0.0
        self.known = num_prompt - 1
        """At the first stage."""
        self.sampled = num_prompt
        """At the last one: so many ids are known there."""
        self.applied = num_prompt - 1
        self.branch = 0
        self.flight: list[int] = []
        self.most_in_flight = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._queues: list[deque[Chunk]] = [deque() for _ in costs]
        self._is_busy = [False] * len(costs)
        self._came = self.text[num_prompt - 1 : num_prompt]
        self._heard, self._guesses, self._is_drafting = num_prompt, list[int](), False
        self._depth = Depth()
        if guesser is not None:
            guesser.know(self.text[: num_prompt - 1], 0.0)

    def run(self) -> float:
        """Until all of the text is sampled; seconds."""
        self._look_at_first()
        while self.sampled < len(self.text):
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        return self.now_s

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), event))

    def _look_at_first(self) -> None:
        """Where it is idle, the first stage takes what comes first: ids, then guesses."""
        if self._is_busy[0]:
            return
        chunk = None
        if self._came:
            ids, self._came = self._came, []
            chunk = self._known(ids)
        if chunk is None:
            chunk = self._further()
        if chunk is not None:
            self._start(0, chunk)

    def _further(self) -> Chunk | None:
        if self.guesser is None or self.sampled == len(self.text):
            return None
        position = self.known + len(self.flight)
        ids, from_s = self.guesser.further(len(self.text) - 1 - position, 0, self.now_s)
        if ids:
            self.flight += ids
            self.most_in_flight = max(self.most_in_flight, self.guesser.num_chunks)
            return Chunk(self.branch, position + len(ids), ids, self.known)
        if from_s < inf:
            self._after(max(from_s - self.now_s, 1e-6), self._look_at_first)
        return None

    def _known(self, ids: list[int]) -> Chunk | None:
        num_right = 0
        while num_right < min(len(ids), len(self.flight)) and self.flight[num_right] == ids[num_right]:
            num_right += 1
        if self.guesser is not None:
            self.guesser.know(ids, self.now_s)
        self.known += len(ids)
        fed = ids[num_right:]
        if not fed:
            del self.flight[:num_right]
            return None
        self.branch += num_right < len(self.flight)
        guesses: list[int] = []
        if self.guesser is not None:
            most = len(self.text) - 1 - self.known
            guesses, _ = self.guesser.begin(most, Load(len(fed), 1.0), 0, self.now_s, is_clear=True)
        self.flight = guesses
        return Chunk(self.branch, self.known + len(guesses), fed + guesses, self.known)

    def _start(self, stage: int, chunk: Chunk) -> None:
        self._is_busy[stage] = True
        seconds = self.costs[stage](len(chunk.ids))
        if stage == 0:
            self.laps.note_step(len(chunk.ids), seconds)
        self._after(seconds, lambda: self._done(stage, chunk))

    def _done(self, stage: int, chunk: Chunk) -> None:
        self._is_busy[stage] = False
        if stage + 1 < len(self.costs):
            self._after(self.link_s, lambda: self._arrive(stage + 1, chunk))
        else:
            self._sample(chunk)
        if stage == 0:
            self._look_at_first()
        else:
            self._next(stage)

    def _arrive(self, stage: int, chunk: Chunk) -> None:
        self._queues[stage].append(chunk)
        self._next(stage)

    def _next(self, stage: int) -> None:
        """What was given up is dropped as soon as a later branch is there."""
        queue = self._queues[stage]
        newest = max((each.branch for each in queue), default=0)
        while queue and queue[0].branch < newest:
            queue.popleft()
        if queue and not self._is_busy[stage]:
            self._start(stage, queue.popleft())

    def _sample(self, chunk: Chunk) -> None:
        first = chunk.end - len(chunk.ids)
        if chunk.branch < self.branch or first > self.applied:
            return
        new = []
        for position, token_id in enumerate(chunk.ids, first):
            if position >= chunk.certain and token_id != self.text[position]:
                break
            self.applied = position + 1
            if self.applied == self.sampled and self.sampled < len(self.text):
                new.append(self.text[self.sampled])
                self.sampled += 1
        if new:
            self._after(self.link_s, lambda: self._come(new))

    def _come(self, ids: list[int]) -> None:
        self._came += ids
        self._look_at_first()
        self._hear(ids)

    def _hear(self, ids: list[int]) -> None:
        """The draft does."""
        for token_id in ids:
            if self._guesses:
                self._depth.judge(self._guesses[0] == token_id, self._heard)
            self._guesses = self._guesses[1:] if self._guesses[:1] == [token_id] else []
            self._heard += 1
        self._draft_more()

    def _draft_more(self) -> None:
        if self.draft is None or self._is_drafting or len(self._guesses) >= self._depth.most(self._heard):
            return
        self._is_drafting = True
        before = [*self.text[: self._heard], *self._guesses]
        self._after(self.draft.seconds, lambda: self._drafted(before))

    def _drafted(self, before: list[int]) -> None:
        assert self.draft is not None
        self._is_drafting = False
        at = len(before)
        if at >= self._heard and before == [*self.text[: self._heard], *self._guesses] and at < len(self.text):
            is_right = before == self.text[:at] and self.draft.agrees(at)
            self._guesses.append(self.text[at] if is_right else -1 - at)
            self._after(self.draft.link_s, partial(self._offered, self._heard, tuple(self._guesses)))
        self._draft_more()

    def _offered(self, position: int, ids: tuple[int, ...]) -> None:
        assert self.guesser is not None
        self.guesser.know(self.text[self.guesser.num_known : self.known], self.now_s)
        if self.guesser.offer(position, digest(self.text[:position]), ids):
            self._look_at_first()
