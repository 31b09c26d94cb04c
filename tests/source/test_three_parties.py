"""One answer as stage, coordinator and source know it, whatever is late, lost or killed: what the source has is always
an answer that was sampled so, and in the end it has all of it or is told that it has parted. On rings that keep books;
`Session`, `HeldSession`, `Heard` and `catch_up` are the real ones."""

from __future__ import annotations

import random
import threading
import zlib
from collections import deque
from concurrent.futures import Future
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardnet.coordinator.held_session import HeldSession
from shardnet.errors import ClusterError, ShardnetError
from shardnet.policy.mending import catch_up
from shardnet.session.session import Session, computed_anew
from shardnet.source.heard import Heard
from shardnet.transport.listener_messages import StraightToken, digest
from shardnet.transport.messages import SessionStanding
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

PROMPT = (1, 2, 3)
NUM_TOKENS = 10
SPEC = SessionSpec(1, 40, len(PROMPT), len(PROMPT), NUM_TOKENS, (), SamplingOptions())
LATER_S = 10.0**6


def next_token(answer: list[int], variant: int) -> int:
    """What is sampled behind an answer; in half precision, who took over may sample another token."""
    return (zlib.crc32(repr(answer).encode()) + variant) % 1000


def was_sampled(answer: list[int], num_variants: int) -> bool:
    return all(
        answer[index] in [next_token(answer[:index], variant) for variant in range(num_variants)]
        for index in range(len(answer))
    )


class Nobody:
    """Who opened the session; see `session.Owner`."""

    def close_session(self, session: int) -> None:
        pass

    close_session_later = close_session


class News:
    """A queue of which is known when its reader has read all."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_read = False

    def put(self, item: Any) -> None:
        with self._changed:
            self._items.append(item)
            self._is_read = False
            self._changed.notify_all()

    def get(self) -> Any:
        with self._changed:
            self._is_read = not self._items
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._items)
            self._is_read = False
            return self._items.popleft()

    def end(self) -> None:
        with self._changed:
            self._is_read = True
            self._changed.notify_all()

    def settle(self, reader: threading.Thread) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_read or not reader.is_alive())


class Coordinator:
    """What `SessionDesk` does of it."""

    def __init__(self) -> None:
        self.held = HeldSession(None, 0.0, 60.0)
        self.session: Session | None = None

    def begin(self, answer: tuple[int, ...], was_left: bool) -> Session:
        session = self.session = Session(Nobody(), SPEC, PROMPT, was_left=was_left)
        self._news = session._news = News()  # type: ignore[assignment]
        for index, token_id in enumerate(answer):
            session.tell(session.token(index, token_id))
        return session

    def collect(self) -> None:
        assert self.session is not None
        self.held.begin(self.session)
        self._reader = threading.Thread(target=self._read, args=(self.session,), daemon=True)
        self._reader.start()
        self.settle()

    def _read(self, session: Session) -> None:
        error: ShardnetError | None = None
        try:
            for token in session:
                self.held.tell(token)
                self._end_parted()
        except ShardnetError as cause:
            error = cause
        self.held.end(error)
        self._news.end()

    def follow(self, *asked: Any) -> Future[Any]:
        answer = self.held.follow(*asked, 0.0, 10.0)
        self._end_parted()
        self.settle()
        return answer

    def _end_parted(self) -> None:
        if self.held.take_parting():
            if self.held.is_finished:
                self.held.end(computed_anew())
            else:
                self.held.close(computed_anew())

    def settle(self) -> None:
        if self.session is not None and hasattr(self, "_reader") and self._reader is not threading.current_thread():
            self._news.settle(self._reader)

    def end(self) -> None:
        if self.session is not None:
            self.session.cancel()


class World:
    def __init__(self, chance: random.Random, is_half: bool) -> None:
        self.chance = chance
        self._is_half = is_half
        self.num_variants = 1
        self._came: list[int] = []
        """Of the answer, at the first stage."""
        self._base: list[int] = []
        """What the last stage was opened with, and what it has sampled behind."""
        self._sampled: list[int] = []
        self._variant = 0
        self._has_first = self._has_last = True
        self._to_coordinator: list[SampledToken] = []
        self._straight: list[StraightToken] = []
        self._follows: list[tuple[int, Any]] = []
        self._answers: dict[int, tuple[int, Future[Any]]] = {}
        self._num_asks = 0
        self.heard = Heard(SPEC)
        self.error: ShardnetError | None = None
        self.coordinator = Coordinator()
        self.coordinator.begin((), was_left=False)
        self.coordinator.collect()

    @property
    def is_over(self) -> bool:
        return self.error is not None or (self.heard.is_whole and not self.heard.num_ahead)

    def ids(self) -> list[int]:
        return [token.token_id for token in self.heard.tokens]

    # ---- what happens ----

    def sample(self) -> None:
        answer = [*self._base, *self._sampled]
        if self._has_first and self._has_last and len(answer) < NUM_TOKENS and self._came == answer:
            token_id = next_token(answer, self._variant)
            self._sampled.append(token_id)
            reason = SPEC.finish_reason(len(answer), token_id)
            self._to_coordinator.append(SampledToken(1, len(answer), token_id, reason))
            self._straight.append(StraightToken(1, len(answer), token_id, digest(answer)))

    def ring(self) -> None:
        if self._has_first and self._has_last:
            self._came = [*self._base, *self._sampled]

    def tell(self) -> None:
        if self._to_coordinator and (session := self.coordinator.session) is not None:
            session.tell(self._any(self._to_coordinator))
            self.coordinator.settle()

    def hear(self) -> None:
        if self._straight:
            self.heard.straight(self._any(self._straight))

    def lose(self) -> None:
        if self._straight:
            self._any(self._straight)

    def ask(self) -> None:
        if not self.is_over:
            self._num_asks += 1
            self._follows.append((self._num_asks, self.heard.position))

    def follow(self) -> None:
        if self._follows:
            number, position = self._any(self._follows)
            self._answers[number] = position.have, self.coordinator.follow(*position)

    def take(self) -> None:
        """Only what was asked last is waited for."""
        have, answer = self._answers.get(self._num_asks, (0, None))
        if answer is None or not answer.done() or self.is_over:
            return
        del self._answers[self._num_asks]
        if (error := answer.exception()) is not None:
            assert isinstance(error, ShardnetError)
            self.error = error
        else:
            told = answer.result()
            self.heard.told(have, told.tokens, told.num_known)
        self._num_asks += 1

    def late(self) -> None:
        self.coordinator.held.answer_late(LATER_S)

    def lose_last(self) -> None:
        self._has_last = False
        self.rewire()

    def lose_first(self) -> None:
        self._has_first = False
        self.rewire()

    def kill(self) -> None:
        """The next one is there at once, and hears of sources before it goes on; or not."""
        self.coordinator.end()
        self._to_coordinator.clear()
        self._answers.clear()
        self.coordinator = Coordinator()
        self._follows = [each for each in self._follows if self.chance.random() < 0.5]

    def restart(self) -> None:
        if self.coordinator.session is None:
            self.coordinator.begin(self.coordinator.held.ahead, was_left=True)
            self.rewire()
            self.coordinator.collect()

    def rewire(self) -> None:
        """As `cluster.handover` does; where no coordinator is there, when one is."""
        session, kept_from = self.coordinator.session, len(PROMPT) + len(self._base)
        if session is None:
            return
        self._to_coordinator.clear()
        first = {1: SessionStanding(1, 0, 0, (*PROMPT, *self._came))} if self._has_first else {}
        last = {1: SessionStanding(1, 0, kept_from, tuple(self._sampled), kept_from)} if self._has_last else {}
        needed = catch_up({1: session.history_from_stages()}, [first, last])
        if self.chance.random() < 0.5:
            self.follow()
        if needed.parted:
            session.tell(computed_anew())
            self.coordinator.settle()
            return
        ids = list(needed.histories[1][len(PROMPT) :])
        is_new = any(opening.stage == 1 for opening in needed.openings)
        if is_new:
            session.cut()
        else:
            session.take_ahead()
        known = len(session.answer)
        for index, token_id in enumerate(ids[known:], start=known):
            session.tell(session.token(index, token_id))
        self.coordinator.settle()
        if is_new:
            self.num_variants += self._is_half
            self._base, self._sampled, self._variant = ids, [], self.num_variants - 1
        self._came, self._has_first, self._has_last = ids, True, True

    def _any(self, items: list[Any]) -> Any:
        return items.pop(self.chance.randrange(len(items)))

    def go_to_its_end(self) -> None:
        """From now on nothing is lost."""
        for _ in range(20 * NUM_TOKENS):
            for action in (self.restart, self.ring, self.sample, self.hear, self.ask):
                action()
            while self._to_coordinator:
                self.tell()
            while self._follows:
                self.follow()
            self.take()
            self.late()
            self.take()
            if self.is_over:
                return
        raise AssertionError("it never ends")


USUAL = ["sample", "ring", "sample-ring", "sample-ring", "tell", "hear", "ask", "follow", "ask-follow"]
ANEW_AND_KILLED = [
    "sample-hear-tell-ring-sample-hear-lose_last-kill-restart",
    "sample-ring-sample-ask-follow-take-tell-ask-follow-take",
]
"""What its source has heard before a token was sampled anew, it tells the coordinator after the next one."""
FAULTS = ["lose", "late", "lose_last", "lose_first", "rewire", "kill", "restart", "kill-ask-follow-restart"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(USUAL + FAULTS), min_size=10, max_size=60), st.integers(0, 2**32), st.booleans())
@example(["sample-hear-lose_last", "sample-ring-sample-ring", "kill-ask-follow-restart"], 0, True)
@example(["sample"] * 6 + ["lose_last", "sample", "hear", "ask-follow"], 1, True)
@example(["ask", "sample-hear-lose_last-ask-follow", "sample-tell-ring-sample-ring-tell", "ask-follow-take"], 0, True)
@example(ANEW_AND_KILLED, 0, True)
def test_whatever_happens_a_source_has_one_answer(actions: list[str], seed: int, is_half: bool) -> None:
    world = World(random.Random(seed), is_half)
    try:
        for action in "-".join(actions).split("-"):
            getattr(world, action)()
            assert was_sampled(world.ids(), world.num_variants)
        world.go_to_its_end()
        assert was_sampled(world.ids(), world.num_variants)
        if world.error is None:
            assert len(world.ids()) == NUM_TOKENS
        else:
            assert isinstance(world.error, ClusterError) and is_half
    finally:
        world.coordinator.end()
