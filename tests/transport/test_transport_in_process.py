"""The in-process network: its script of faults, and what its devices learn of each other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from processes import wait_until

from shardnet.errors import CallTimeout, ClusterError, DeviceLost, JoinFailed
from shardnet.transport import InProcessNetwork, InProcessTransport

SOON_S = 0.05
"""A timeout that is meant to pass."""


@pytest.fixture
def network() -> Iterator[InProcessNetwork]:
    with InProcessNetwork() as network:
        yield network


class Inbox:
    """A device that keeps what arrives."""

    def __init__(self, network: InProcessNetwork, name: str) -> None:
        self.arrived: queue.Queue[Any] = queue.Queue()
        self.waiting: list[Future[Any]] = []
        self.transport: InProcessTransport = network.join(name)
        self.transport.expose("hop", self.arrived.put)
        self.transport.expose("later", self._later)

    def _later(self) -> Future[Any]:
        self.waiting.append(Future())
        return self.waiting[-1]

    def next(self) -> Any:
        return self.arrived.get(timeout=10)


@pytest.fixture
def a(network: InProcessNetwork) -> Inbox:
    return Inbox(network, "a")


@pytest.fixture
def b(network: InProcessNetwork) -> Inbox:
    return Inbox(network, "b")


def test_a_dropped_message_never_arrives(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    network.drop("a", "b", endpoint="hop", count=2)
    for n in range(2):
        with pytest.raises(CallTimeout):
            a.transport.post("b", "hop", n, timeout_s=SOON_S).result(10)
    a.transport.post("b", "hop", 2).result(10)
    assert b.next() == 2
    assert b.arrived.empty()


def test_only_what_the_script_names_is_dropped(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    network.drop("a", "b", endpoint="other")
    network.drop("b", "a")
    a.transport.post("b", "hop", 1).result(10)
    assert b.next() == 1


def test_a_lost_answer_is_a_timeout_after_the_work_was_done(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    network.drop("b", "a", answers=True)
    with pytest.raises(CallTimeout):
        a.transport.post("b", "hop", 1, timeout_s=SOON_S).result(10)
    assert b.next() == 1
    a.transport.post("b", "hop", 2).result(10)


def test_a_duplicate_arrives_twice_and_is_answered_once(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    network.duplicate("*", "b", endpoint="hop")
    a.transport.post("b", "hop", torch.ones(3)).result(10)
    first, second = b.next(), b.next()
    first.zero_()
    assert torch.equal(second, torch.ones(3))
    a.transport.post("b", "hop", 2).result(10)
    assert b.next() == 2
    assert b.arrived.empty()


def test_a_delay_lets_others_overtake(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    Inbox(network, "c")
    c = network.member("c")
    assert c is not None
    network.delay("a", "b", SOON_S)
    started = time.monotonic()
    slow = a.transport.post("b", "hop", "slow")
    c.post("b", "hop", "fast").result(10)
    assert b.next() == "fast"
    slow.result(10)
    assert b.next() == "slow"
    assert time.monotonic() - started >= SOON_S


def test_messages_of_a_pair_stay_in_order_when_asked() -> None:
    with InProcessNetwork(ordered=True) as network:
        a, b = Inbox(network, "a"), Inbox(network, "b")
        for n in range(300):
            a.transport.post("b", "hop", n)
        assert [b.next() for _ in range(300)] == list(range(300))


def test_calls_that_wait_for_a_killed_device_fail(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    due = a.transport.call("b", "later", timeout_s=60)
    network.kill("b")
    for answer in (due, a.transport.post("b", "hop", 1), b.transport.post("a", "hop", 1)):
        with pytest.raises(DeviceLost):
            answer.result(10)
    assert a.arrived.empty()
    assert b.arrived.empty()
    assert a.transport.members() == ("a", "b")


def test_an_evicted_device_is_off_every_list_and_is_refused(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    c = Inbox(network, "c")
    due = a.transport.call("b", "later", timeout_s=60)
    a.transport.evict("b")
    assert a.transport.members() == c.transport.members() == ("a", "c")
    with pytest.raises(DeviceLost):
        due.result(10)
    with pytest.raises(DeviceLost, match="b is not in the cluster"):
        a.transport.post("b", "hop", 1).result(10)
    with pytest.raises(ClusterError, match="serves no device that was evicted"):
        b.transport.post("a", "hop", 1).result(10)


def test_a_name_is_free_again_when_its_device_is_dead(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    with pytest.raises(JoinFailed, match="b is in the cluster already"):
        network.join("b")
    network.kill("b")
    new = Inbox(network, "b")
    a.transport.post("b", "hop", 1).result(10)
    assert new.next() == 1
    assert b.arrived.empty()


def test_a_handle_does_not_reach_the_next_device_of_that_name(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    b.transport.expose("list", list)
    handle = a.transport.remote("b", "list", (3, 4))
    assert handle.call("index", 4, timeout_s=10).result(10) == 1
    network.kill("b")
    network.join("b")
    with pytest.raises(DeviceLost):
        handle.call("index", 4, timeout_s=10).result(10)


def test_a_frozen_device_times_out_and_then_works_again(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    network.freeze("b")
    with pytest.raises(CallTimeout):
        a.transport.post("b", "hop", 1, timeout_s=SOON_S).result(10)
    waiting = a.transport.post("b", "hop", 2)
    assert b.arrived.empty()
    network.restore("b")
    waiting.result(10)
    assert {b.next(), b.next()} == {1, 2}


def test_restoring_everything_forgets_the_script(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    network.drop("a", "b", count=100)
    network.delay("a", "b", 60)
    network.freeze("b")
    network.restore()
    a.transport.post("b", "hop", 1).result(10)


def test_leaving_is_noticed_and_ends_what_is_due(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    dues = [device.transport.call("b", "later", timeout_s=60) for device in (a, b)]
    b.transport.close()
    b.transport.close()
    assert a.transport.members() == ("a",)
    for due in dues:
        with pytest.raises(ClusterError):
            due.result(10)
    with pytest.raises(ClusterError, match="b has left"):
        b.transport.post("a", "hop", 1).result(10)


def test_members_that_come_and_go_are_told_in_order(network: InProcessNetwork, a: Inbox, b: Inbox) -> None:
    told: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    a.transport.on_members(lambda joined, left: told.append((joined, left)))
    network.join("c")
    network.kill("b")
    network.join("b")
    a.transport.evict("c")
    b.transport.close()  # of the dead one: the name is another's by now
    wait_until(lambda: len(told) == 3, 10)
    assert told == [(("c",), ()), (("b",), ("b",)), ((), ("c",))]


def test_no_thread_is_left_over() -> None:
    before = set(threading.enumerate())
    with InProcessNetwork() as network:
        a, b = Inbox(network, "a"), Inbox(network, "b")
        a.transport.post("b", "hop", 1).result(10)
        network.delay("a", "b", 60)
        a.transport.call("b", "later", timeout_s=60)
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before
    assert b.next() == 1
