"""Sessions as the source sees them, over an in-process network with stages that only keep books."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from processes import wait_until

from shardnet.errors import BadRequest, ClusterError, DeviceLost
from shardnet.session.route import Ring
from shardnet.session.session import Session
from shardnet.session.sessions import Sessions
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import Hop, RingId, RingStop, Tokens
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

RING = RingId(b"epoch", 7)


class Books:
    """A device of the ring: which sessions are open there."""

    def __init__(self, network: InProcessNetwork, name: str) -> None:
        self.open: set[int] = set()
        self.prompts: list[Hop] = []
        transport = network.join(name)
        transport.expose("open_session", lambda version, stage, spec: self._open(spec))
        transport.expose("close_sessions", lambda version, stage, sessions: self.open.difference_update(sessions))
        transport.expose("bulk_hop", self._prompt)

    def _open(self, spec: SessionSpec) -> None:
        self.open.add(spec.session)

    def _prompt(self, hop: Hop) -> Future[None]:
        self.prompts.append(hop)
        taken: Future[None] = Future()
        taken.set_result(None)
        return taken


class Source:
    def __init__(self) -> None:
        self.network = InProcessNetwork()
        self.stages = [Books(self.network, "a"), Books(self.network, "b")]
        source = self.network.join("source")
        stops = (RingStop("a", 0, 1, "float32"), RingStop("b", 2, 3, "float32"))
        self.sessions = Sessions(source, itertools.count(1), Ring(RING, stops))

    def start(self, ids: Sequence[int] = (5, 6, 7)) -> Session:
        return self.sessions.start(ids, max_new_tokens=4, eos_ids=(), sampling=SamplingOptions())

    def sample(self, session: int, index: int, reason: str = "") -> None:
        self.sessions.tell(Tokens(RING, (SampledToken(session, index, 10 + index, reason),)))

    def open(self) -> list[set[int]]:
        self.sessions.settle()
        return [stage.open for stage in self.stages]


@pytest.fixture
def ring() -> Iterator[Source]:
    ring = Source()
    with ring.network:
        yield ring


def test_a_prompt_that_has_the_ring_to_itself_is_cut_and_no_other(ring: Source) -> None:
    def cut(_: Ring, num_tokens: int) -> list[int]:
        return [2] * (num_tokens // 2) + [1] * (num_tokens % 2)

    ring.sessions.cut = cut
    sessions = [ring.start(range(7)), ring.start(range(5))]
    wait_until(lambda: len(ring.stages[0].prompts) == 2)
    for session in sessions:
        ring.sessions.close_session(session.spec.session)
    sessions.append(ring.start(range(3)))
    wait_until(lambda: len(ring.stages[0].prompts) == 3)
    alone, beside, again = ring.stages[0].prompts
    assert [(part.position, part.num_tokens) for part in alone.parts] == [(0, 2), (2, 2), (4, 2), (6, 1)]
    assert [(part.position, part.num_tokens) for part in beside.parts] == [(0, 5)]
    assert [(part.position, part.num_tokens) for part in again.parts] == [(0, 2), (2, 1)]
    assert [hop.payload.tolist() for hop in (alone, beside)] == [list(range(7)), list(range(5))]


def test_tokens_come_in_order_and_the_end_frees_the_memory(ring: Source) -> None:
    session = ring.start()
    number = session.spec.session
    assert ring.open() == [{number}, {number}]
    for index, reason in ((1, ""), (0, ""), (3, "length"), (2, "")):
        ring.sample(number, index, reason)
    assert [token.token_id for token in session] == [10, 11, 12, 13]
    assert ring.open() == [set(), set()] and ring.sessions.num_open == 0


def test_a_session_that_nobody_holds_is_closed_when_its_next_token_comes(ring: Source) -> None:
    """Once, a stream that was never read went on to its last token, and kept its KV memory for ever."""
    session = ring.start()
    number = session.spec.session
    del session
    gc.collect()
    assert ring.open() == [{number}, {number}]
    ring.sample(number, 0)
    assert ring.open() == [set(), set()] and ring.sessions.num_open == 0


def test_or_when_the_next_session_is_started(ring: Source) -> None:
    ring.start()
    ring.start()
    gc.collect()
    session = ring.start()
    assert ring.open() == [{session.spec.session}] * 2


def test_an_iteration_that_is_dropped_closes_its_session(ring: Source) -> None:
    session = ring.start()
    ring.sample(session.spec.session, 0)
    tokens = iter(session)
    next(tokens)
    loop: list[Any] = [tokens]
    loop.append(loop)
    del tokens, loop
    with ring.sessions._lock:  # the collector may run anywhere, here too
        gc.collect()
    assert ring.open() == [set(), set()]


def test_an_iteration_that_is_dropped_asks_nobody_at_once(ring: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, the collector ran while something was posted, and posted to the same device: its lock was never free."""
    session = ring.start()
    ring.sample(session.spec.session, 0)
    tokens = iter(session)
    next(tokens)
    transport, posting = ring.sessions._transport, threading.Lock()
    post = transport.post

    def post_one(*args: Any, **options: Any) -> Any:
        assert posting.acquire(timeout=1)
        try:
            return post(*args, **options)
        finally:
            posting.release()

    monkeypatch.setattr(transport, "post", post_one)
    with posting:
        tokens.close()  # type: ignore[attr-defined]
    assert ring.open() == [set(), set()]


def test_one_session_fails_and_the_others_go_on(ring: Source) -> None:
    failing, fine = ring.start(), ring.start()
    ring.sessions.fail_session(failing.spec.session, BadRequest("no finite numbers"))
    with pytest.raises(BadRequest, match="finite"):
        list(failing)
    assert ring.open() == [{fine.spec.session}] * 2
    ring.sample(fine.spec.session, 0, "eos")
    assert [token.token_id for token in fine] == [10]
    ring.sessions.fail_session(99, BadRequest("unknown ones are ignored"))


def test_a_broken_ring_gives_everybody_an_error_of_their_own(ring: Source) -> None:
    """One exception raised in many threads would gather all their tracebacks, and keep what these hold."""
    sessions = [ring.start() for _ in range(2)]
    lost = DeviceLost("a is lost", "a")
    ring.sessions.end(lost)
    raised = []
    for wait in (lambda: list(sessions[0]), lambda: list(sessions[1]), ring.start, ring.start):
        with pytest.raises(DeviceLost, match="a is lost") as error:
            wait()
        raised.append(error.value)
    assert len({id(error) for error in [lost, *raised]}) == 5
    assert {error.device for error in raised} == {"a"} and lost.__traceback__ is None
    assert ring.sessions.num_open == 0


def test_what_was_ended_while_rings_were_exchanged_is_closed_in_the_new_one(ring: Source) -> None:
    """Its stages answer to that one alone, and went on computing."""
    session = ring.start()
    told: list[tuple[RingId, int, tuple[int, ...]]] = []
    for name in ("a", "b"):
        ring.network.member(name).expose("close_sessions", lambda *asked: told.append(asked))  # type: ignore[union-attr]
    ring.sessions.suspend()
    ring.sessions.end(ClusterError("stage 1 failed"))
    new = RingId(b"epoch", 8)
    ring.sessions.point_at(ring.sessions.ring._replace(ring_id=new))
    number = session.spec.session
    wait_until(lambda: len(told) == 4, 10)
    assert sorted(told) == [(ring_id, stage, (number,)) for ring_id in (RING, new) for stage in (0, 1)]


def test_a_prompt_that_cannot_be_served_ends_its_session_alone(ring: Source) -> None:
    ring.network.member("a").expose("bulk_hop", _refuse)  # type: ignore[union-attr]
    with pytest.raises(ClusterError, match="not in force"):
        list(ring.start())
    assert ring.open() == [set(), set()]


def test_cancelling_from_another_thread_ends_the_wait(ring: Source) -> None:
    session = ring.start()
    threading.Timer(0.05, session.cancel).start()
    assert list(session) == []
    assert ring.open() == [set(), set()]


def _refuse(hop: Hop) -> Future[None]:
    raise ClusterError("that plan is not in force here.")
