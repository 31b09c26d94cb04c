"""When a device has to pause for its battery's sake. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shardnet.profiling.power import PowerState

HOT_C, COOL_C = 45.0, 41.0
"""Of a battery: it ages fast from the first on, and is taken to have cooled down at the second."""
MORE_PERCENT = 3.0
"""By so much a battery that was low must have risen, where nothing comes in."""


@dataclass(frozen=True)
class PowerLimits:
    """What the owner of a device allows."""

    min_battery_percent: float = 0.0
    """With less than this, and no charger, it pauses; 0 sets no limit."""
    only_charging: bool = False
    """It pauses whenever no power comes in."""

    def why_paused(self, power: PowerState, *, is_paused: bool) -> str:
        """Why a device has to pause, in words; empty where it may work.

        What cannot be read limits nothing, but for one thing: where the battery is known and not whether it is
        charged, it is taken not to be.

        Args:
            is_paused: whether it pauses already: then it takes more to let it work.
        """
        has_battery = power.battery_percent is not None or power.is_charging is not None
        on_battery = has_battery and power.is_charging is not True
        percent, celsius = power.battery_percent, power.battery_c
        at_least = self.min_battery_percent + (MORE_PERCENT if is_paused and self.min_battery_percent else 0.0)
        if celsius is not None and celsius >= (COOL_C if is_paused else HOT_C):
            return f"its battery has {celsius:.0f} degrees"
        if on_battery and percent is not None and percent < at_least:
            return f"its battery is at {percent:.0f}%"
        if on_battery and self.only_charging:
            return "it is not being charged"
        return ""


NO_POWER_LIMITS = PowerLimits()
"""Only heat counts."""
