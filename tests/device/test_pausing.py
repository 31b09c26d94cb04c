"""A device that pauses: when it does, what it says, and that its coordinator hears of it whatever gets lost."""

from __future__ import annotations

from queue import SimpleQueue

import pytest

from shardnet.device import pausing
from shardnet.device.pausing import AGAIN_S, Pausing
from shardnet.device.power_limits import PowerLimits
from shardnet.errors import ClusterError
from shardnet.profiling.power import UNKNOWN_POWER, PowerState
from shardnet.transport import InProcessNetwork
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import COORDINATOR

LOW, FULL = PowerState(8.0, False), PowerState(80.0, True)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def never() -> PowerState:
    raise AssertionError("read")


def test_it_pauses_at_once_and_works_again_when_all_was_well_for_a_minute() -> None:
    told: list[tuple[str, str]] = []
    clock = Clock()
    device = Pausing(PowerLimits(10.0), lambda *event: told.append(event), never, clock)
    for power in (UNKNOWN_POWER, FULL, LOW, PowerState(7.0, False)):
        device.look(power)
    assert told == [("paused", "its battery is at 8%")] and device.why == "its battery is at 7%"
    device.look(FULL)
    clock.now_s += AGAIN_S - 1
    device.look(FULL)
    device.look(LOW)  # the plug was loose
    device.look(FULL)
    clock.now_s += AGAIN_S - 1
    device.look(FULL)
    assert len(told) == 1
    clock.now_s += 1
    device.look(FULL)
    assert told[1:] == [("unpaused", "")] and not device.why and device.power == FULL


def test_a_reading_that_fails_changes_nothing() -> None:
    """Android may end the app that reads just when the battery is low."""
    clock = Clock()
    device = Pausing(PowerLimits(10.0), lambda *_: None, never, clock)
    device.look(LOW)
    for _ in range(3):
        clock.now_s += AGAIN_S
        device.look(PowerState(hottest_c=40.0))
    assert device.why and device.power.battery_percent is None


class Readings:
    """What is read: the last that was set."""

    def __init__(self) -> None:
        self.now = LOW

    def __call__(self) -> PowerState:
        return self.now


class Listener:
    """A coordinator, as far as it hears of pauses. It loses the first `num_lost` of them."""

    def __init__(self, network: InProcessNetwork, num_lost: int = 0) -> None:
        self.heard: SimpleQueue[tuple[str, ...]] = SimpleQueue()
        self._num_lost = num_lost
        network.join(COORDINATOR, self._prepare)

    def _prepare(self, transport: Transport) -> None:
        transport.expose("pause", self._pause)
        transport.expose("unpause", lambda device: self.heard.put(("unpause", device)))

    def _pause(self, device: str, why: str) -> str:
        self._num_lost -= 1
        if self._num_lost >= 0:
            raise ClusterError("not now")
        self.heard.put(("pause", device, why))
        return "units 0-2 went to b"


def test_each_coordinator_hears_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READ_EVERY_S", "LOOK_EVERY_S", "AGAIN_S"):
        monkeypatch.setattr(pausing, name, 0.001)
    told: SimpleQueue[tuple[str, str]] = SimpleQueue()
    readings = Readings()
    device = Pausing(PowerLimits(10.0), lambda *event: told.put(event), readings)
    with InProcessNetwork() as network:
        first = Listener(network, num_lost=2)
        with device.watch(network.join("a")):
            assert first.heard.get(timeout=10) == ("pause", "a", "its battery is at 8%")
            assert told.get(timeout=10) == ("paused", "its battery is at 8%")
            assert told.get(timeout=10)[1].startswith("units 0-2 went to b, after ")
            network.kill(COORDINATOR)
            second = Listener(network)
            assert second.heard.get(timeout=10)[0] == "pause"
            readings.now = FULL
            assert second.heard.get(timeout=10) == ("unpause", "a")
            network.kill(COORDINATOR)
            third = Listener(network)
            readings.now = LOW
            assert third.heard.get(timeout=10)[0] == "pause"  # and not before that it works
        for listener in (first, second, third):
            assert listener.heard.empty()


def test_somebody_may_want_it_to_pause_and_the_battery_may_want_it_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "READ_EVERY_S", 1e9)
    told: SimpleQueue[tuple[str, str]] = SimpleQueue()
    readings = Readings()
    readings.now = FULL
    device = Pausing(PowerLimits(10.0), lambda *event: told.put(event), readings)
    with InProcessNetwork() as network:
        listener = Listener(network)
        with device.watch(network.join("a")):
            assert device.ask(True) == ""
            assert listener.heard.get(timeout=10) == ("pause", "a", "it was told to")
            assert device.ask(False) == ""
            assert listener.heard.get(timeout=10) == ("unpause", "a")
            device.look(LOW)
            assert listener.heard.get(timeout=10)[0] == "pause"
            assert device.ask(True) == device.ask(False) == "its battery is at 8%"
    assert [told.get(timeout=10)[0] for _ in range(5)] == ["paused", "handed over", "unpaused", "paused", "handed over"]
    assert told.empty()
