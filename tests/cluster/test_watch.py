"""Who is lost, and who only looked like it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from processes import wait_until

from shardnet.cluster import watch as watching
from shardnet.cluster.watch import Watch
from shardnet.policy.membership import Came, Ended, Limits
from shardnet.transport import InProcessNetwork


@pytest.fixture
def network() -> Iterator[InProcessNetwork]:
    with InProcessNetwork() as network:
        for name in ("a", "b"):
            network.join(name).expose("stages", list)
        yield network


def test_many_suspicions_of_one_device_get_one_verdict_and_keep_nobody_waiting(
    network: InProcessNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, each of them took half a second after the one before it, and nothing else was looked at meanwhile: after
    forty failed hops to a living device the death of another was noticed 20 s late."""
    monkeypatch.setattr(watching, "LIMITS", Limits(ask_every_s=0.05))
    lost: list[str] = []
    lives: list[int] = []
    is_lost = threading.Event()
    source = network.join("source")

    def on_lost(device: str, why: str) -> None:
        lost.append(device)
        is_lost.set()

    watch = Watch(source, ("a", "b"), dict, on_lost, lambda *_: None)
    try:
        for index in range(100):
            watch.suspect("a", lambda index=index: lives.append(index))  # type: ignore[misc]
        network.kill("b")
        assert is_lost.wait(10) and lost == ["b"]
        wait_until(lambda: len(lives) == 100, 10)
        assert lives == list(range(100)) and "a" not in watch.lost
    finally:
        watch.close()


def test_a_suspected_device_that_is_dead_is_lost_and_its_suspicions_are_forgotten(network: InProcessNetwork) -> None:
    lost: list[str] = []
    lives: list[str] = []
    watch = Watch(network.join("source"), ("a", "b"), dict, lambda device, why: lost.append(device), lambda *_: None)
    try:
        network.kill("a")
        watch.suspect("a", lambda: lives.append("a"))
        wait_until(lambda: lost == ["a"], 10)
        watch.suspect("a", lambda: lives.append("a"))
        watch.suspect("b", lambda: lives.append("b"))
        wait_until(lambda: lives == ["b"], 10)
    finally:
        watch.close()
    watch.suspect("b", lambda: lives.append("b"))
    assert lives == ["b"]


def test_what_goes_wrong_for_one_device_keeps_no_news_from_another(
    network: InProcessNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a callback took the rest of a look with it: the second of two losses was never told."""
    monkeypatch.setattr(watching, "LIMITS", Limits(ask_every_s=0.05))
    lost: list[str] = []
    lives: list[str] = []
    heard: set[str] = set()
    ended: dict[str, str] = {}

    def on_lost(device: str, why: str) -> None:
        lost.append(device)
        raise ZeroDivisionError

    def on_stages(device: str, *_: object) -> None:
        heard.add(device)
        raise ZeroDivisionError

    def refuse() -> None:
        lives.append("refused")
        raise ZeroDivisionError

    watch = Watch(network.join("source"), ("a", "b"), lambda: dict(ended), on_lost, on_stages)
    try:
        wait_until(lambda: heard == {"a", "b"}, 10)
        watch.suspect("a", refuse)
        watch.suspect("a", lambda: lives.append("a"))
        wait_until(lambda: lives == ["refused", "a"], 10)
        ended.update(a="its process was killed", b="its process was killed")
        wait_until(lambda: lost == ["a", "b"], 10)
    finally:
        watch.close()


def test_a_suspicion_outlasts_a_look_that_fails(network: InProcessNetwork) -> None:
    lives: list[str] = []

    def unreadable() -> dict[str, str]:
        raise OSError("no such process")

    watch = Watch(network.join("source"), ("a", "b"), unreadable, lambda *_: None, lambda *_: None)
    try:
        watch.suspect("a", lambda: lives.append("a"))
        wait_until(lambda: lives == ["a"], 10)
    finally:
        watch.close()


def test_who_comes_and_goes_is_told_in_order(network: InProcessNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that came under the name of a lost one was lost for ever, and struck off as soon as it was there."""
    monkeypatch.setattr(watching, "LIMITS", Limits(ask_every_s=0.02, grace_s=0.05))
    told: list[tuple[str, str, bool]] = []
    watch: Watch
    watch = Watch(
        network.join("source"),
        (),
        dict,
        lambda device, why: told.append((device, why, device in watch.gone)),
        lambda device, *_: told.append((device, "heard", device in watch.gone)),
    )
    try:
        for _ in range(20):
            watch.tell(Came("a"))
            watch.tell(Ended("a", "it has left"))
        watch.tell(Came("a"))
        watch.tell(Came("b"))
        wait_until(lambda: {("a", "heard", False), ("b", "heard", False)} <= set(told), 10)
        assert told[:20] == [("a", "it has left", True)] * 20
        assert watch.lost == {}
        network.kill("a")
        wait_until(lambda: ("a", "its connection broke", False) in told, 10)
    finally:
        watch.close()


def test_suspicion_and_its_end_are_told(network: InProcessNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LIMITS", Limits(ask_every_s=0.02, suspect_after_s=0.1))
    told: list[tuple[str, str]] = []
    source = network.join("source")
    watch = Watch(
        source, ("a",), dict, lambda *_: None, lambda *_: None, lambda device, why: told.append((device, why))
    )
    try:
        network.freeze("a")
        wait_until(lambda: told == [("a", "it has been silent for 0.1 s")], 10)
        network.restore("a")
        wait_until(lambda: told[1:] == [("a", "")], 10)
    finally:
        watch.close()
