"""The script that sets up a phone, with what only this machine knows filled in."""

from __future__ import annotations

import re
from importlib.resources import files

from shardnet.launch.termux.wheel import Wheel
from shardnet.process.light_set import PURE, TERMUX

SCRIPT = "setup.sh"
TORCH_ON_ARM = "torch>=2.8,<2.11"
"""Later wheels for Linux on arm64 bring gigabytes of CUDA."""
_SAFE = re.compile(r"[A-Za-z0-9 ._:/<>=~,\[\]-]*")
"""What may stand between quotes in the script."""


def script_for(wheel: Wheel, source: str = "") -> bytes:
    """The script for a wheel.

    Args:
        source: where the wheel can be fetched, as "https://192.168.1.5:29501"; empty where it lies beside the script.
    """
    values = {
        "FROM": source,
        "WHEEL": wheel.name,
        "SHA256": wheel.sha256,
        "TERMUX_PACKAGES": " ".join(TERMUX),
        "PURE": " ".join(PURE),
        "TORCH_ON_ARM": TORCH_ON_ARM,
    }
    text = files("shardnet.launch.termux").joinpath(SCRIPT).read_text(encoding="utf-8")
    for name, value in values.items():
        is_safe = _SAFE.fullmatch(value) is not None
        assert is_safe, value
        text = text.replace(f"@{name}@", value)
    return text.encode()
