"""The console of tables and notes that quote what others wrote: names, models, files."""

from __future__ import annotations

import sys

from rich.console import Console

WIDE = 1000
"""Characters."""


def plain_console(*, soft_wrap: bool = False, stderr: bool = False, width: int | None = None) -> Console:
    """Prints every text as it is.

    By rich's own rules `[/x]` in a device's name ends a style, which raises, `[b]` vanishes, and `:cat:` is a picture.
    Styles are given as `style=`, never as markup.
    """
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap, stderr=stderr, width=width)


def table_console() -> Console:
    """The same, and as wide as it takes where no screen sets limits: who reads a pipe gets whole names."""
    return plain_console(width=None if sys.stdout.isatty() else WIDE)


def size(num_bytes: float) -> str:
    """2.5 MiB, 1.3 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if num_bytes >= 100 or unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
