"""The C library that this process has loaded."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def c_library(*functions: str) -> Any:
    """It, where it has all of these functions; else None."""
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if all(hasattr(library, name) for name in functions) else None
