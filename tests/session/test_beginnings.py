"""With which session another one begins, and that all stages agree on how much of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, as_completed, wait
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_until

from shardnet.errors import BadRequest
from shardnet.process.threads import on_thread
from shardnet.session import beginnings
from shardnet.session.beginnings import LEAST_WAITED, MOST_KNOWN, Beginnings, worth_waiting_for
from shardnet.session.route import Ring
from shardnet.session.session import Session
from shardnet.session.sessions import Sessions
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import Hop, RingId, RingStop, Tokens
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec
from shardnet.transport.sharing_messages import Shares, num_alike

IDS = tuple(range(100, 140))


@given(st.lists(st.integers(0, 1), max_size=20), st.lists(st.integers(0, 1), max_size=20))
def test_as_many_are_alike_as_are(one: list[int], other: list[int]) -> None:
    number = num_alike(one, other)
    assert one[:number] == other[:number]
    assert number == min(len(one), len(other)) or one[number] != other[number]


def test_most_wins_and_of_several_the_one_that_was_closed_last() -> None:
    known = Beginnings()
    known.note(1, IDS[:20])
    known.note(2, (*IDS[:30], 7))
    known.note(3, (*IDS[:30], 8))
    assert known.best(IDS) == Shares(3, 30, IDS[:30])
    assert known.best(IDS, [(4, IDS[:30])]) == Shares(3, 30, IDS[:30])
    assert known.best(IDS, [(4, IDS[:31])]) == Shares(4, 31, IDS[:31])
    assert known.best(IDS[:25]) == Shares(3, 24, IDS[:24]), "one at least is computed"
    assert known.best((7, *IDS)) is None and known.best(IDS[:10]) is None


def test_what_stages_have_no_more_is_forgotten() -> None:
    known = Beginnings()
    known.note(1, IDS)
    known.settle(Shares(1, 40), 0)
    assert known.best(IDS) is None
    known.note(2, IDS)
    known.settle(Shares(2, 18), 18)
    assert known.best(IDS) == Shares(2, 39, IDS[:39]), "its heir has less than half of it: it stays beside it"
    known.settle(Shares(2, 39), 39)
    assert known.best(IDS) is None
    for number in range(3, 4 + MOST_KNOWN):
        known.note(number, (number, *IDS))
    assert known.best((3, *IDS)) is None and known.best((4, *IDS)) is not None


class Stages:
    """Two stages that answer as a test says."""

    def __init__(self, network: InProcessNetwork) -> None:
        self.has = {"a": 0, "b": 0}
        self.specs: dict[str, list[SessionSpec]] = {"a": [], "b": []}
        self.prompts: list[Hop] = []
        for name in self.has:
            transport = network.join(name)
            transport.expose("open_session", lambda version, stage, spec, name=name: self._open(name, spec))
            transport.expose("close_sessions", lambda version, stage, sessions: None)
            transport.expose("bulk_hop", self._prompt)

    def _open(self, name: str, spec: SessionSpec) -> int:
        self.specs[name].append(spec)
        return 0 if spec.shares is None else min(self.has[name], spec.shares.most_tokens)

    def _prompt(self, hop: Hop) -> Future[None]:
        self.prompts.append(hop)
        taken: Future[None] = Future()
        taken.set_result(None)
        return taken


class Source:
    def __init__(self, network: InProcessNetwork) -> None:
        self.stages = Stages(network)
        stops = (RingStop("a", 0, 1, "float32"), RingStop("b", 2, 3, "float32"))
        self.ring = Ring(RingId(b"epoch", 7), stops)
        self.sessions = Sessions(network.join("source"), itertools.count(1), self.ring)
        self.sessions.shares_prefixes = True

    def start_later(self, *ids: int) -> Future[Session]:
        """On another thread: it may wait."""
        return on_thread("start", lambda: self.start(*ids))

    def start(self, *ids: int) -> Session:
        return self.sessions.start(ids, max_new_tokens=2, eos_ids=(), sampling=SamplingOptions())

    def prompt_of(self, session: Session) -> tuple[int, list[int]]:
        """Where it begins, and its ids."""
        number = session.spec.session
        wait_until(lambda: any(hop.parts[0].session == number for hop in self.stages.prompts))
        hop = next(hop for hop in self.stages.prompts if hop.parts[0].session == number)
        return hop.parts[0].position, hop.payload.tolist()

    def answer(self, session: Session, *ids: int) -> None:
        number = session.spec.session
        told = [SampledToken(number, index, each, "length" if index else "") for index, each in enumerate(ids)]
        self.sessions.tell(Tokens(self.ring.ring_id, tuple(told)))
        assert [token.token_id for token in session] == list(ids)


@pytest.fixture
def source() -> Iterator[Source]:
    with InProcessNetwork() as network:
        yield Source(network)


def test_all_are_asked_once_where_they_have_equally_much(source: Source) -> None:
    source.answer(source.start(*IDS), 1, 2)
    source.stages.has = {"a": 41, "b": 41}
    session = source.start(*IDS, 1, 2, 3, 4)
    first, second = (source.stages.specs[name][1:] for name in "ab")
    assert [spec.shares for spec in first] == [Shares(1, 42, (*IDS, 1, 2))], "the first one compares"
    assert [spec.shares for spec in second] == [Shares(1, 42)]
    assert session.num_shared == 41
    assert source.prompt_of(session) == (41, [2, 3, 4])


def test_all_begin_with_the_least(source: Source) -> None:
    source.answer(source.start(*IDS), 1, 2)
    source.stages.has = {"a": 41, "b": 17}
    session = source.start(*IDS, 1, 2, 3, 4)
    assert [each[-1].shares for each in source.stages.specs.values()] == [Shares(1, 17)] * 2
    assert session.num_shared == 17 and source.prompt_of(session)[0] == 17


def test_where_one_has_nothing_all_is_sent(source: Source) -> None:
    source.answer(source.start(*IDS), 1, 2)
    source.stages.has = {"a": 41, "b": 0}
    session = source.start(*IDS, 1, 2, 3, 4)
    assert session.num_shared == 0 and source.prompt_of(session) == (0, [*IDS, 1, 2, 3, 4])
    source.stages.has = {"a": 50, "b": 50}
    source.start(*IDS[:39])
    assert source.stages.specs["a"][-1].shares == Shares(2, 38, IDS[:38]), "the first one is not asked for again"


def test_nothing_is_begun_with_a_session_that_failed(source: Source) -> None:
    session = source.start(*IDS)
    source.sessions.fail_session(session.spec.session, BadRequest("it cannot go on."))
    source.start(*IDS, 3)
    assert source.stages.specs["a"][-1].shares is None


def test_few_tokens_are_computed_anew() -> None:
    known = Beginnings()
    known.note(1, IDS[: beginnings.LEAST_TOKENS - 1])
    assert known.best(IDS) is None


LONG = tuple(range(1000, 1000 + 2 * LEAST_WAITED))


def test_a_prompt_is_waited_for_where_that_saves_much() -> None:
    half = len(LONG) // 2
    assert worth_waiting_for(LONG, 0, [(1, LONG)]) == Shares(1, len(LONG) - 1, LONG[:-1])
    assert worth_waiting_for(LONG, 0, [(1, LONG[:half]), (2, LONG[:half])]) == Shares(1, half, LONG[:half]), "the older"
    assert worth_waiting_for(LONG, half, [(1, LONG)]) is None, "most of it is there"
    assert worth_waiting_for(LONG, 0, [(1, LONG[: half - 1])]) is None, "few are computed meanwhile"
    assert worth_waiting_for(LONG, 0, [(1, LONG[:half] + (7,) * (half + 1))]) is None, "most of it is another's"
    assert worth_waiting_for(LONG, 0, []) is None


def test_one_that_begins_alike_at_the_same_moment_waits_for_the_prompt(source: Source) -> None:
    first = source.start(*LONG)
    source.stages.has = {"a": len(LONG), "b": len(LONG)}
    others = [source.start_later(*LONG, number) for number in range(3)]
    wait_until(lambda: source.sessions.num_open == 4 and len(source.stages.prompts) > 0)
    assert not any(each.done() for each in others) and len(source.stages.prompts) == 1
    source.answer(first, 1, 2)
    for other in as_completed(others, 20):  # who looks last may wait for another one of them
        assert other.result().num_shared == len(LONG) == source.prompt_of(other.result())[0]
        source.answer(other.result(), 1, 2)


def test_one_that_looks_late_begins_with_whoever_has_taken_over(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it computed all of it: the one before was used up, and the heir was started later than itself."""
    source.answer(source.start(*LONG), 1, 2)
    source.stages.has = {"a": len(LONG), "b": len(LONG)}
    may_look, settle, calls = Event(), source.sessions.settle, itertools.count()
    monkeypatch.setattr(source.sessions, "settle", lambda: (next(calls) or may_look.wait(20), settle()))
    late = source.start_later(*LONG, 0)
    wait_until(lambda: source.sessions.num_open == 1)
    heir = source.start(*LONG, 1)
    assert heir.num_shared == len(LONG)
    may_look.set()
    assert not wait([late], 0.2).done, "it waits for the heir's prompt"
    source.answer(heir, 1, 2)
    assert late.result(20).num_shared == len(LONG)


@pytest.mark.parametrize("end", ["closed", "failed", "all"])
def test_one_that_is_over_is_waited_for_no_more(source: Source, end: str) -> None:
    first = source.start(*LONG)
    other = source.start_later(*LONG, 5)
    wait_until(lambda: source.sessions.num_open == 2)
    if end == "closed":
        first.cancel()
    elif end == "failed":
        source.sessions.fail_session(first.spec.session, BadRequest("it cannot go on."))
    else:
        source.sessions.end(BadRequest("the model was closed."))
        with pytest.raises(BadRequest, match="closed"):
            other.result(20)
        return
    assert other.result(20).spec.prompt_tokens == len(LONG) + 1
