"""A gate that carries."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple


class Begun(NamedTuple):
    """What is told of it, and what it goes on doing."""

    carrying: Coroutine[Any, Any, None]
    """Never ends by itself."""
    told: dict[str, Any]
    """Whoever has started it."""
