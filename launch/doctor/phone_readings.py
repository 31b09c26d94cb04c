"""Reads what a phone says of itself: properties of Android, and what commands of Termux print."""

from __future__ import annotations

import json
import platform
import shutil
from typing import Any

import psutil

from shardnet.launch.doctor.phone import PhoneReadings
from shardnet.profiling.phone import android_property
from shardnet.profiling.power import TERMUX_S, read_power
from shardnet.profiling.termux import run_command

CHILDREN = "persist.sys.fflag.override.settings_enable_monitor_phantom_procs"
"""What Developer options > Disable child process restrictions sets to false."""


def read_phone() -> PhoneReadings:
    """All of it. Takes seconds, where the app Termux:API does not answer."""
    has_api = shutil.which("termux-battery-status") is not None
    power = read_power()
    answers = power.battery_percent is not None
    sdk, watches = android_property("ro.build.version.sdk"), android_property(CHILDREN)
    return PhoneReadings(
        kind="proot" if is_proot() else "termux",
        sdk=int(sdk) if sdk.isdecimal() else None,
        watches_children={"true": True, "false": False}.get(watches),
        num_processes=_num_processes(),
        has_wake_lock=shutil.which("termux-wake-lock") is not None,
        has_api=has_api,
        power=power,
        wifi=_wifi() if answers else None,
    )


def is_proot() -> bool:
    """Whether this is a Linux that Termux carries."""
    return "proot" in platform.release().lower() or "proot" in platform.version().lower()


def _wifi() -> dict[str, Any] | None:
    answer = run_command("termux-wifi-connectioninfo", TERMUX_S)
    try:
        found = json.loads("" if answer is None else answer.printed)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _num_processes() -> int | None:
    """Android shows a program those of its own app alone."""
    try:
        return len(psutil.pids())
    except OSError:
        return None
