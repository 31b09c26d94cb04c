"""Whether this machine is a phone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shardnet.profiling.kernel_files import ROOT


def is_phone(root: Path = ROOT) -> bool:
    """Whether this is Android: natively (Termux), or a Linux that Termux carries (proot)."""
    is_android = sys.platform == "android" or "ANDROID_ROOT" in os.environ
    return is_android or (root / "system/build.prop").exists()
