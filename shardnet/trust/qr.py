"""A QR code: its modules, and how they are drawn in a terminal, two rows in a line of text."""

from __future__ import annotations

import segno

QUIET = 4
"""Light modules around it, without which phones do not find it."""
_HALVES = {(True, True): " ", (False, True): "▀", (True, False): "▄", (False, False): "█"}
"""By whether the upper and the lower module are dark: what is drawn is the light of a dark terminal."""
_LIGHT_ON_DARK, _AS_BEFORE = "\x1b[97;40m", "\x1b[0m"


def drawn(text: str, in_colours: bool) -> list[str]:
    """The lines of the QR code of a text.

    Args:
        in_colours: sets the colours, so that it can be scanned from a light terminal, too.
    """
    rows = [[bool(module) for module in row] for row in modules(text)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    lines = ["".join(_HALVES[pair] for pair in zip(upper, lower)) for upper, lower in zip(rows[::2], rows[1::2])]
    return [f"{_LIGHT_ON_DARK}{line}{_AS_BEFORE}" for line in lines] if in_colours else lines


def modules(text: str) -> list[list[int]]:
    """Rows of modules, dark where it is 1, with the light ones around them."""
    code = segno.make(text, error="l", micro=False)
    return [[int(module) for module in row] for row in code.matrix_iter(border=QUIET)]
