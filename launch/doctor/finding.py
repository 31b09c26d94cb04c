"""What the doctor says of one thing that it has looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """A key of the JSON object."""
    ok: bool
    """False: shardnet cannot work like this."""
    text: str
    """What was found, for a person."""
    data: Any = None
    """The same for a program."""
    hints: tuple[str, ...] = field(default=())
    """What would be better, or what to do."""
    table: tuple[str, ...] = ()
    """More of what was found, for a person, line by line."""

    @property
    def verdict(self) -> Literal["ok", "warning", "problem"]:
        if not self.ok:
            return "problem"
        return "warning" if self.hints else "ok"
