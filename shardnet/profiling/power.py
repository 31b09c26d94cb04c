"""Battery and temperature, where they can be read: files of the kernel, one command of Termux, psutil.

Any value may be missing; a missing one is None. The kernel's files are looked for under `root`, so that tests can show
those of a phone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from shardnet.profiling.kernel_files import ROOT, read_int, read_text
from shardnet.profiling.termux import run_command

TERMUX_S = 12.0
"""`termux-battery-status` takes 7 s on some phones, and waits for ever where the app Termux:API is missing, or now and
then."""
SANE_C = -60.0, 150.0
"""Beyond these, a temperature is a sign that there is none."""


@dataclass(frozen=True)
class PowerState:
    """Battery and temperature at one moment; None where they cannot be read."""

    battery_percent: float | None = None
    is_charging: bool | None = None
    battery_c: float | None = None
    drawn_w: float | None = None
    """Power that leaves the battery. None while it charges: then the wall feeds the machine."""
    hottest_c: float | None = None
    """The hottest sensor of the machine."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def knows_battery(self) -> bool:
        """Whether anything was read of it."""
        return (self.battery_percent, self.is_charging, self.battery_c) != (None, None, None)

    @property
    def temperature_c(self) -> float | None:
        """The battery's, where it is known; or else the hottest sensor's."""
        return self.hottest_c if self.battery_c is None else self.battery_c


UNKNOWN_POWER = PowerState()
"""Nothing could be read."""


def read_power(root: Path = ROOT) -> PowerState:
    """Battery and temperature now. Takes up to `TERMUX_S` on a phone whose Termux:API does not answer."""
    answer = run_command("termux-battery-status", TERMUX_S)
    told = None if answer is None else battery_from_termux(answer.printed)
    state = told or battery_from_sysfs(root) or _battery_from_psutil() or UNKNOWN_POWER
    values = {**asdict(state), "hottest_c": hottest_c(root)}
    return PowerState(**values)


def battery_from_termux(answer: str) -> PowerState | None:
    """From the JSON of `termux-battery-status`; any field may be missing. Pure."""
    try:
        values = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    charging = _is_charging(values.get("status"), values.get("plugged"))
    celsius = _number(values.get("temperature"))
    is_sane = celsius is not None and SANE_C[0] < celsius < SANE_C[1]
    micro_amperes, millivolts = _number(values.get("current")), _number(values.get("voltage"))
    volts = millivolts / 1000 if millivolts else 3.85  # a lithium cell's nominal voltage
    drawn = abs(micro_amperes) / 1e6 * volts if micro_amperes and charging is False else None
    return PowerState(_number(values.get("percentage")), charging, celsius if is_sane else None, drawn)


def _is_charging(status: Any, plugged: Any) -> bool | None:
    """Whether power comes in: also where a phone on its charger keeps its battery at 80%, and says NOT_CHARGING."""
    if status in ("CHARGING", "FULL"):
        return True
    if status == "DISCHARGING" or plugged == "UNPLUGGED":
        return False
    is_plugged = isinstance(plugged, str) and plugged.startswith("PLUGGED_")
    return True if is_plugged or status == "NOT_CHARGING" else None


def battery_from_sysfs(root: Path = ROOT) -> PowerState | None:
    """From the first battery under /sys/class/power_supply."""
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if read_text(folder / "type").strip() != "Battery" or read_text(folder / "scope").strip() == "Device":
            continue
        status = read_text(folder / "status").strip()
        charging = status in ("Charging", "Full", "Not charging") if status and status != "Unknown" else None
        micro_watts = _micro_watts(folder)
        tenths = read_int(folder / "temp")
        return PowerState(
            battery_percent=_as_float(read_int(folder / "capacity")),
            is_charging=charging,
            battery_c=tenths / 10 if tenths is not None else None,
            drawn_w=abs(micro_watts) / 1e6 if micro_watts and charging is False else None,
        )
    return None


def _micro_watts(battery: Path) -> int | None:
    told = read_int(battery / "power_now")
    micro_amperes, micro_volts = read_int(battery / "current_now"), read_int(battery / "voltage_now")
    if told is None and micro_amperes is not None and micro_volts is not None:
        return abs(micro_amperes) * micro_volts // 10**6
    return told


def hottest_c(root: Path = ROOT) -> float | None:
    """The hottest of the kernel's thermal zones, or of psutil's sensors."""
    readings = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
        millidegrees = read_int(zone / "temp")
        if millidegrees is not None:
            # Some phones' zones count whole degrees.
            readings.append(millidegrees / 1000 if abs(millidegrees) > 200 else float(millidegrees))
    if not readings and root == ROOT:
        readings = _sensors_c()
    sane = [reading for reading in readings if 0 < reading < 130]
    return max(sane, default=None)


def _sensors_c() -> list[float]:
    with suppress(OSError, RuntimeError):
        found = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        return [sensor.current for sensors in found.values() for sensor in sensors]
    return []


def package_joules(root: Path = ROOT) -> float | None:
    """Joules that the processors have used since some moment (Intel's and AMD's counters); mostly for the superuser."""
    counters = [read_int(file) for file in (root / "sys/class/powercap").glob("intel-rapl:[0-9]/energy_uj")]
    known = [counter for counter in counters if counter is not None]
    return sum(known) / 1e6 if known else None


class PowerWatch:
    """Reads the power while others measure. A context manager: its thread ends with the block.

    Args:
        read: reads what leaves the battery. The block does not end before it has answered: `battery_from_sysfs` does at
            once, `read_power` knows phones, too.

    Attributes:
        active_w: mean watts of the machine's processors, or middle watts out of its battery; None where neither can be
            read.
    """

    def __init__(self, read: Callable[[], PowerState | None] = read_power) -> None:
        self._read = read
        self.active_w: float | None = None
        self._drawn_w: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shardnet-power", daemon=True)

    def __enter__(self) -> PowerWatch:
        self._start_s, self._start_j = time.perf_counter(), package_joules()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        end_j = package_joules()
        if self._drawn_w:
            self.active_w = median(self._drawn_w)
        elif self._start_j is not None and end_j is not None and end_j > self._start_j:
            self.active_w = (end_j - self._start_j) / (time.perf_counter() - self._start_s)

    def _watch(self) -> None:
        while not self._ended.wait(2.0):
            state = self._read()
            if state is not None and state.drawn_w is not None:
                self._drawn_w.append(state.drawn_w)


def _battery_from_psutil() -> PowerState | None:
    battery = None
    if hasattr(psutil, "sensors_battery"):
        with suppress(OSError, RuntimeError, ZeroDivisionError):
            battery = psutil.sensors_battery()
    return PowerState(battery.percent, battery.power_plugged) if battery else None


def _number(value: Any) -> float | None:
    """Some versions of Termux:API write numbers as texts."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    with suppress(ValueError, OverflowError):
        number = float(value)
        return number if isfinite(number) else None
    return None


def _as_float(value: int | None) -> float | None:
    return None if value is None else float(value)
