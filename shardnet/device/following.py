"""A stage that is prepared to take over units keeps near those that have them: it copies what they have of sessions.

Copies go straight from device to device. The owner reads them when it has nothing else to do, in pieces so small that
work which comes meanwhile hardly waits; here they are written while the stage, which is in no ring, has nothing to do.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

from shardnet.errors import BadRequest, CallTimeout, ClusterError, PlanNotInForce, ShardnetError
from shardnet.process.threads import on_thread
from shardnet.stage.copies import MOST_BYTES
from shardnet.stage.followed import FollowedSessions
from shardnet.stage.stage import Stage
from shardnet.transport.base import Transport
from shardnet.transport.messages import Copied, CopyWanted, Owner

Result = TypeVar("Result")
ANSWER_S = 5.0
ANSWER_TRIES = 3
LONGEST_S = 1.0
"""For so long an answer may take where as much is asked for as comes well."""


class Manner(NamedTuple):
    """How an owner is asked."""

    first_bytes: int
    """In the first answer."""
    most_bytes: int
    """In any answer."""
    bytes_per_s: float
    """Of what is asked for, by how long the last answer took: what waits for long steps takes little of them."""
    patience_s: float
    """For so long the owner may let other work go first."""
    pause_s: float
    """Between two answers."""

    def next_bytes(self, asked_bytes: int, answer_s: float) -> int:
        """How much to ask for when the last answer, of so many bytes or less, took so long.

        No more than comes within `LONGEST_S` at that pace: over a slow link it would be late, be asked for again, and
        hold up what the owner sends besides.
        """
        answer_s = max(answer_s, 1e-6)
        next_bytes = min(self.bytes_per_s * answer_s, asked_bytes * LONGEST_S / answer_s)
        return int(min(max(self.first_bytes, next_bytes), self.most_bytes))


POLITE = Manner(2**18, 2**20, 2.5e6, 0.1, 0.002)
"""While the owner decodes: an answer takes it a few tenths of a millisecond, or a hundredth of its steps."""
HURRIED = Manner(2**18, MOST_BYTES, math.inf, 0.0, 0.0)
"""While all wait."""
LEAST_PAUSE_S, MOST_PAUSE_S = 0.02, 0.5
"""Between two passes over the owners; longer each time that nothing was new."""


class Following:
    """What one stage follows. Safe to use from several threads.

    Args:
        stage: gives the stage; raises ClusterError where it is not running.
    """

    def __init__(self, transport: Transport, stage: Callable[[], Stage]) -> None:
        self._transport = transport
        self._stage = stage
        self._turn = Turn((), POLITE)
        self._turn.end_with(None)
        self._is_over = False
        self._lock = threading.Lock()

    def follow(self, owners: tuple[Owner, ...]) -> Future[None]:
        """From now on copy what these owners have, and stay near; answered when all was copied for the first time.

        Without owners nothing is followed any more, and what was copied is dropped. Asking twice is harmless. The
        future fails with what an owner failed of; the others, and that one later, are followed all the same.

        Raises:
            PlanNotInForce: it follows stages of a later ring by now.
        """
        self._stage()
        with self._lock:
            self._refuse_older(owners)
            self._is_over = False
            if self._turn.owners != owners or self._turn.is_over:
                self._begin(Turn(owners, POLITE), self._keep_near if owners else self._drop_all)
            return self._turn.done

    def pull(self, owners: tuple[Owner, ...]) -> Future[None]:
        """Copy what is still lacking, for a last time: answered when the stage stands where the owners stand.

        What cannot be had, for an owner is gone or there is no room, stays as it is. Asking twice is harmless. What is
        not there when the next round begins, the stage does without: see `end`.

        Raises:
            PlanNotInForce: it was told to pull from stages of a later ring: this order is late.
        """
        self._stage()
        with self._lock:
            self._refuse_older(owners)
            self._is_over = True
            if self._turn.owners != owners or self._turn.manner is not HURRIED or self._turn.is_over:
                self._begin(Turn(owners, HURRIED), self._copy_once)
            return self._turn.done

    def end(self) -> None:
        """Copy nothing more, also of what is being pulled; what was copied stays. It may be pulled anew. Does not wait.

        What came later would be applied while stages are asked how far they stand, and are told what to send.
        """
        with self._lock:
            self._is_over = True
            self._turn.stop()

    def spare_bytes(self, stage: Stage) -> int:
        """What copies here have reserved and would give to a session of `stage`."""
        with self._lock:
            spare = self._spare(stage)
            return 0 if spare is None else spare.copied_bytes()

    def give_up_one(self, stage: Stage) -> bool:
        """Give the newest copy's memory to a session of `stage`; False where there is none."""
        with self._lock:
            spare = self._spare(stage)
            return spare is not None and spare.drop_newest()

    def _spare(self, stage: Stage) -> FollowedSessions | None:
        """None where what was copied stays: others may know of it already, and send only what comes behind it."""
        try:
            running = None if self._is_over else self._stage()
        except ClusterError:
            return None
        shares = running is not None and running.kv.shares_budget_with(stage.kv)
        return running.followed if running is not None and shares else None

    def _refuse_older(self, owners: tuple[Owner, ...]) -> None:
        """An order of a round that was broken off may come behind that of the next one. The lock is held."""
        if owners and _version(owners) < _version(self._turn.owners):
            raise PlanNotInForce(
                f"The stage copies from stages of plan {_version(self._turn.owners)}, and not of plan "
                f"{_version(owners)} any more."
            )

    def _begin(self, turn: Turn, work: Callable[[Turn], None]) -> None:
        self._turn.stop()
        self._turn = turn
        on_thread("shardnet-follow", partial(turn.do, work)).add_done_callback(_nothing)

    def _keep_near(self, turn: Turn) -> None:
        """Until the turn is over."""
        pause_s = LEAST_PAUSE_S
        while True:
            news = self._pass(turn)
            if news.error is None:
                self._do(turn, partial(FollowedSessions.drop_others, listed=news.listed))
            turn.end_with(news.error)
            pause_s = LEAST_PAUSE_S if news.num_tokens else min(2 * pause_s, MOST_PAUSE_S)
            turn.pause(pause_s)

    def _copy_once(self, turn: Turn) -> None:
        self._pass(turn)
        self._do(turn, FollowedSessions.end)

    def _drop_all(self, turn: Turn) -> None:
        self._do(turn, partial(FollowedSessions.drop_others, listed=()))

    def _pass(self, turn: Turn) -> News:
        """Once over all owners, the last one first: it knows most of the sessions."""
        listed: set[int] = set()
        num_tokens, error = 0, None
        for owner in sorted(turn.owners, key=lambda owner: -owner.last_unit):
            try:
                num_tokens += self._copy_from(owner, turn, listed)
            except ShardnetError as reason:
                error = error or reason
        return News(num_tokens, frozenset(listed), error)

    def _copy_from(self, owner: Owner, turn: Turn, listed: set[int]) -> int:
        """All that an owner has; returns of how many tokens, and notes which sessions are open there."""
        shard, num_tokens = self._stage().shard, 0
        first_unit, last_unit = max(owner.first_unit, shard.first_unit), min(owner.last_unit, shard.last_unit)
        del shard
        if first_unit > last_unit:
            return 0
        manner = turn.manner
        ask = partial(FollowedSessions.wanted, first_unit=first_unit, last_unit=last_unit, patience_s=manner.patience_s)
        most_bytes = manner.first_bytes
        while True:
            wanted = self._do(turn, partial(ask, most_bytes=most_bytes))
            asked_s = time.monotonic()
            copied = self._answer(owner, wanted, turn)
            most_bytes = manner.next_bytes(most_bytes, time.monotonic() - asked_s)
            is_all = self._do(turn, partial(FollowedSessions.take, wanted=wanted, copied=copied))
            num_tokens += sum(part.num_tokens for part in copied.parts)
            if is_all:
                listed.update(state.session for state in copied.sessions)
                return num_tokens
            turn.pause(manner.pause_s)

    def _answer(self, owner: Owner, wanted: CopyWanted, turn: Turn) -> Copied:
        for _ in range(ANSWER_TRIES - 1):
            try:
                return self._ask(owner, wanted, turn)
            except CallTimeout:
                continue
        return self._ask(owner, wanted, turn)

    def _ask(self, owner: Owner, wanted: CopyWanted, turn: Turn) -> Copied:
        asked = self._transport.call(owner.device, "copy_sessions", owner.key, wanted, timeout_s=ANSWER_S)
        copied: Copied = turn.wait_for(asked)
        return copied

    def _do(self, turn: Turn, work: Callable[[FollowedSessions], Result]) -> Result:
        """On the stage's compute thread, as long as the turn is not over."""
        stage = self._stage()
        asked = stage.between_steps(partial(_do, turn, stage.followed, work))
        del stage  # whoever waits here must not hold the weights of one that is closed meanwhile
        done: Result = turn.wait_for(asked)
        return done


class News(NamedTuple):
    """Of one pass over all owners."""

    num_tokens: int
    listed: frozenset[int]
    """Sessions that are open at an owner."""
    error: ShardnetError | None
    """The first one."""


class Turn:
    """A time in which the same owners are followed. Stopped by any thread, and waited in by one.

    Attributes:
        done: when all was copied once.
    """

    def __init__(self, owners: tuple[Owner, ...], manner: Manner) -> None:
        self.owners = owners
        self.manner = manner
        self.done: Future[None] = Future()
        self.is_over = False
        """It was stopped, or has failed."""
        self._news = threading.Event()

    def do(self, work: Callable[[Turn], None]) -> None:
        """The work of the thread."""
        error: ShardnetError | None = None
        try:
            work(self)
        except _Over:
            error = BadRequest("The stage follows others now, or nobody any more.")
        except ShardnetError as reason:
            error = reason
        except Exception as reason:  # memory that is not there, say: whoever asked would ask for ever
            error = ClusterError(f"Sessions could not be copied: {type(reason).__name__}: {reason}")
        self.is_over = self.is_over or error is not None
        self.end_with(error)

    def end_with(self, error: ShardnetError | None) -> None:
        """Answer whoever asked for it, if nobody has."""
        if self.done.done():
            return
        if isinstance(error, CallTimeout):  # an owner's: else who asked would take it for this device's, and ask again
            error = ClusterError(str(error))
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error.with_traceback(None))

    def stop(self) -> None:
        self.is_over = True
        self._news.set()

    def raise_if_over(self) -> None:
        """Raise `_Over` if it is stopped."""
        if self.is_over:
            raise _Over

    def wait_for(self, asked: Future[Any]) -> Any:
        """What a future gives.

        Raises:
            _Over: the turn was stopped first.
        """
        asked.add_done_callback(self._wake)
        while True:
            self._news.clear()
            self.raise_if_over()
            if asked.done():
                return asked.result()
            self._news.wait()

    def pause(self, pause_s: float) -> None:
        """So long at most.

        Raises:
            _Over: the turn was stopped.
        """
        self._news.clear()
        self.raise_if_over()
        self._news.wait(pause_s)
        self.raise_if_over()

    def _wake(self, _: Future[Any]) -> None:
        self._news.set()


class _Over(Exception):
    """Of a turn."""


def _do(turn: Turn, followed: FollowedSessions, work: Callable[[FollowedSessions], Result]) -> Result:
    turn.raise_if_over()
    return work(followed)


def make_room(followings: Sequence[Following], stage: Stage, num_tokens: int) -> bool:
    """Give up copied sessions of a device's stages, the newest first, for one of `stage`. False: that would not do."""
    if stage.kv.missing_bytes(num_tokens) > sum(following.spare_bytes(stage) for following in followings):
        return False
    while stage.kv.missing_bytes(num_tokens) and any(following.give_up_one(stage) for following in followings):
        pass
    return True


def _version(owners: Sequence[Owner]) -> int:
    """Of the ring in which they are owners."""
    return max((owner.key[0].plan_version for owner in owners), default=0)


def _nothing(_: Future[None]) -> None:
    """Whatever failed was told to who asked."""
