"""The battery of a device is looked at, and one look that finds it low is told once."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event

import pytest

from shardnet.device import battery
from shardnet.device.battery import BatteryWatch
from shardnet.profiling.power import PowerState


def test_low_is_less_than_asked_for_without_a_charger() -> None:
    assert PowerState(9.0, False).low_percent(10.0) == 9.0
    for state in (PowerState(10.0, False), PowerState(9.0, True), PowerState(9.0, None), PowerState()):
        assert state.low_percent(10.0) is None


def test_a_battery_that_gets_low_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(battery, "EVERY_S", 0.001)
    states: Iterator[PowerState] = iter([PowerState(), PowerState(12.0, False), PowerState(9.5, True)])
    told: SimpleQueue[float] = SimpleQueue()
    with BatteryWatch(10.0, told.put, lambda: next(states, PowerState(9.0, False))) as watch:
        assert told.get(timeout=10) == 9.0
        assert watch.is_low and told.empty()


def test_nothing_is_looked_at_where_nothing_is_asked_for_or_after_the_end() -> None:
    with BatteryWatch(0.0, pytest.fail, lambda: pytest.fail("looked")):
        pass
    looks, may_answer = SimpleQueue[None](), Event()

    def slow() -> PowerState:
        looks.put(None)
        may_answer.wait(10)
        return PowerState(1.0, False)

    told: list[float] = []
    with BatteryWatch(10.0, told.append, slow) as watch:
        looks.get(timeout=10)
    may_answer.set()
    assert told == [] and not watch.is_low
