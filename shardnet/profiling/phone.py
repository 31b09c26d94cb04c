"""Whether this machine is a phone, and which one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from shardnet.profiling.kernel_files import ROOT

PROPERTY_S = 5.0
_NO_NAMES = ("", "localhost")


def is_phone(root: Path = ROOT) -> bool:
    """Whether this is Android: natively (Termux), or a Linux that Termux carries (proot)."""
    is_android = sys.platform == "android" or "ANDROID_ROOT" in os.environ
    return is_android or (root / "system/build.prop").exists()


def android_property(name: str) -> str:
    """One of Android's properties; empty where there is none, or this is no phone."""
    command = shutil.which("getprop")
    if command is None:
        return ""
    try:
        done = subprocess.run(
            [command, name], capture_output=True, text=True, timeout=PROPERTY_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@cache
def machine_label() -> str:
    """What this machine is called; a phone, all of which are called localhost, by its model. Empty where it has no name
    at all."""
    node = platform.node()
    if node not in _NO_NAMES:
        return node
    return android_property("ro.product.model") or node
