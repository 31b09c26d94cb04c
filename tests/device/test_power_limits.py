"""When a device has to pause for its battery's sake."""

from __future__ import annotations

import pytest

from shardnet.device.power_limits import NO_POWER_LIMITS, PowerLimits
from shardnet.profiling.power import UNKNOWN_POWER, PowerState

FLOOR = PowerLimits(10.0)
CHARGER = PowerLimits(0.0, only_charging=True)


@pytest.mark.parametrize(
    ("limits", "power", "why"),
    [
        (FLOOR, PowerState(9.6, False), "its battery is at 10%"),
        (FLOOR, PowerState(10.0, False), ""),
        (FLOOR, PowerState(3.0, True), ""),
        (FLOOR, PowerState(3.0), "its battery is at 3%"),
        (FLOOR, UNKNOWN_POWER, ""),
        (CHARGER, PowerState(90.0, False), "it is not being charged"),
        (CHARGER, PowerState(90.0), "it is not being charged"),
        (CHARGER, PowerState(90.0, True), ""),
        (CHARGER, UNKNOWN_POWER, ""),
        (CHARGER, PowerState(hottest_c=99.0), ""),
        (NO_POWER_LIMITS, PowerState(0.0, False), ""),
        (NO_POWER_LIMITS, PowerState(80.0, True, 44.9), ""),
        (NO_POWER_LIMITS, PowerState(80.0, True, 45.0), "its battery has 45 degrees"),
        (PowerLimits(10.0, only_charging=True), PowerState(5.0, False, 50.0), "its battery has 50 degrees"),
    ],
)
def test_why_a_device_pauses(limits: PowerLimits, power: PowerState, why: str) -> None:
    assert limits.why_paused(power, is_paused=False) == why


def test_it_takes_more_to_go_on_than_to_stay_at_work() -> None:
    for power in (PowerState(12.0, False), PowerState(80.0, True, 42.0)):
        assert not FLOOR.why_paused(power, is_paused=False)
        assert FLOOR.why_paused(power, is_paused=True)
    for power in (PowerState(13.0, False), PowerState(5.0, True, 40.0)):
        assert not FLOOR.why_paused(power, is_paused=True)
    assert not CHARGER.why_paused(PowerState(1.0, True), is_paused=True)
