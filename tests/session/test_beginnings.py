"""With which session another one begins, and that all stages agree on how much of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_until

from shardnet.errors import BadRequest
from shardnet.session import beginnings
from shardnet.session.beginnings import MOST_KNOWN, Beginnings
from shardnet.session.route import Ring
from shardnet.session.session import Session
from shardnet.session.sessions import Sessions
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import Hop, RingId, RingStop, SampledToken, SamplingOptions, SessionSpec, Tokens
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
