"""What may keep a phone from being a device: what Android does to programs in the background, and what tells of the
battery. Pure: what was read of the phone is handed in (`phone_readings`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shardnet.launch.doctor.finding import Finding
from shardnet.profiling.power import UNKNOWN_POWER, PowerState

ANDROID_12, ANDROID_12L, ANDROID_14 = 31, 32, 34
"""API levels (`ro.build.version.sdk`)."""
MOST_CHILDREN = 32
"""Processes that the apps of Android 12 and later may have started, all together."""
WEAK_DBM = -75
BAND_MHZ = 3000
"""Below is 2.4 GHz."""
MIN_PERCENT = 20


@dataclass(frozen=True)
class PhoneReadings:
    """What was read of a phone; None, or nothing, where that could not be."""

    kind: Literal["termux", "proot"]
    sdk: int | None = None
    """Android's API level."""
    watches_children: bool | None = None
    """Whether Android ends child processes, as far as the developer options say."""
    num_processes: int | None = None
    """That are seen from here: of this app."""
    has_wake_lock: bool = True
    """Whether `termux-wake-lock` is there."""
    has_api: bool = True
    """Whether the commands of the package termux-api are there."""
    power: PowerState = UNKNOWN_POWER
    wifi: Mapping[str, Any] | None = None
    """As `termux-wifi-connectioninfo` says it."""


def find_on_phone(seen: PhoneReadings) -> Iterator[Finding]:
    """One thing after the other."""
    yield find_wake_lock(seen)
    yield find_battery_optimisation(seen)
    yield find_child_processes(seen)
    yield find_battery(seen)
    yield find_wifi(seen)


def find_wake_lock(seen: PhoneReadings) -> Finding:
    """Without one, a phone computes nothing once its screen is dark."""
    if seen.has_wake_lock:
        return Finding("wake_lock", True, "shardnet join takes it and gives it back", {"can_be_taken": True})
    hint = "Run in Termux: pkg install termux-tools"
    if seen.kind == "proot":
        hint += ". Enter Debian without --isolated and --minimal, so that Termux's commands are found there"
    text = "termux-wake-lock is not found: the phone stops computing when its screen goes dark"
    return Finding("wake_lock", False, text, {"can_be_taken": False}, (f"{hint}.",))


def find_battery_optimisation(seen: PhoneReadings) -> Finding:
    """Android does not tell it to an app's programs."""
    hints = (
        "Set Settings > Apps > Termux > Battery to Unrestricted, and that of Termux:API and Termux:Boot, too.",
        "On Xiaomi, Huawei, Oppo, Vivo and Samsung allow autostart as well: see dontkillmyapp.com.",
    )
    return Finding("battery_saving", True, "whether Android may stop Termux cannot be read here", None, hints)


def find_child_processes(seen: PhoneReadings) -> Finding:
    """Android's "phantom process killer"."""
    data = {"sdk": seen.sdk, "watched": seen.watches_children, "num_processes": seen.num_processes}
    if seen.sdk is not None and seen.sdk < ANDROID_12:
        return Finding("child_processes", True, "this Android leaves them alone", data)
    if seen.watches_children is False:
        return Finding("child_processes", True, "the developer options leave them alone", data)
    num = "" if seen.num_processes is None else f"; {seen.num_processes} of this app run now"
    text = f"Android ends them beyond {MOST_CHILDREN}, and those that compute in the background{num}"
    return Finding("child_processes", True, text, data, (_how_to_leave_children_alone(seen.sdk),))


def _how_to_leave_children_alone(sdk: int | None) -> str:
    by_computer = "adb shell settings put global settings_enable_monitor_phantom_procs false"
    if sdk is None or sdk >= ANDROID_14:
        return f"Switch on Developer options > Disable child process restrictions; or, from a computer: {by_computer}"
    if sdk >= ANDROID_12L:
        return f"From a computer: {by_computer}"
    return (
        'From a computer: adb shell "device_config set_sync_disabled_for_tests persistent; device_config put '
        'activity_manager max_phantom_processes 2147483647"'
    )


def find_battery(seen: PhoneReadings) -> Finding:
    """What `join --min-battery` goes by."""
    power = seen.power
    data = {
        "battery_percent": power.battery_percent,
        "is_charging": power.is_charging,
        "temperature_c": power.temperature_c,
    }
    if power.battery_percent is None:
        hints = ["shardnet join cannot pause before the battery is empty, nor when it is hot."]
        if seen.has_api:
            hints.append(
                "Install the app Termux:API from where Termux is from, open it once, and set it to Unrestricted."
            )
        else:
            hints.append(
                "Run in Termux: pkg install termux-api; and install the app Termux:API, from where Termux is from."
            )
        return Finding("battery", True, "cannot be read", data, tuple(hints))
    charging = "charging" if power.is_charging else "not charging"
    celsius = "" if power.temperature_c is None else f", {power.temperature_c:.0f} degrees"
    is_low = power.battery_percent < MIN_PERCENT and power.is_charging is not True
    hint = ("Plug it in: shardnet join pauses below 10%, unless --min-battery says otherwise.",) if is_low else ()
    return Finding("battery", True, f"{power.battery_percent:.0f}%, {charging}{celsius}", data, hint)


def find_wifi(seen: PhoneReadings) -> Finding:
    """Every token crosses it, twice where both ends are phones."""
    wifi = seen.wifi or {}
    mbit_per_s, mhz, dbm = (wifi.get(name) for name in ("link_speed_mbps", "frequency_mhz", "rssi"))
    if not isinstance(mbit_per_s, int) or mbit_per_s <= 0 or not isinstance(mhz, int) or not isinstance(dbm, int):
        return Finding("wifi", True, "how good it is cannot be read", None)
    data = {"link_mbit_per_s": mbit_per_s, "frequency_mhz": mhz, "rssi_dbm": dbm}
    hints: tuple[str, ...] = ()
    if dbm < WEAK_DBM:
        hints += ("The signal is weak: go nearer to the access point.",)
    if mhz < BAND_MHZ:
        hints += ("It is in the 2.4 GHz band: one of 5 or 6 GHz is several times faster.",)
    return Finding("wifi", True, f"{mbit_per_s} Mbit/s at {mhz / 1000:.1f} GHz, {dbm} dBm", data, hints)
