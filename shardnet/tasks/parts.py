"""Long texts in parts: at paragraphs, else between sentences, else between words, else anywhere. Pure.

No character is lost, added or moved: parts, one behind the other, are the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

Fits = Callable[[str], bool]
"""Whether a part is short enough. What is shorter than one that fits, fits."""
_ENDS = (r"\n\s*\n", r"\n", r"[.!?。！？][\"'”’)\]]*\s+|[。！？]", r"\s+")
"""Behind which a text may be cut, the best place first: paragraphs, lines, sentences, words."""


def parts_of(text: str, fits: Fits) -> list[str]:
    """A text in as few parts as its paragraphs and sentences allow, each of which fits.

    A single character always stands, for it cannot be cut.
    """
    return [text] if fits(text) else _cut(text, fits, _ENDS)


def _cut(text: str, fits: Fits, ends: Sequence[str]) -> list[str]:
    if not ends:
        return _cut_anywhere(text, fits)
    places = [0, *(found.end() for found in re.finditer(ends[0], text)), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(places) if begin < end]
    if len(pieces) == 1:
        return _cut(text, fits, ends[1:])
    small = [part for piece in pieces for part in ([piece] if fits(piece) else _cut(piece, fits, ends[1:]))]
    return _joined(small, fits)


def _joined(pieces: Sequence[str], fits: Fits) -> list[str]:
    """As many of them together as fit."""
    parts = [pieces[0]]
    for piece in pieces[1:]:
        together = parts[-1] + piece
        if fits(together):
            parts[-1] = together
        else:
            parts.append(piece)
    return parts


def _cut_anywhere(text: str, fits: Fits) -> list[str]:
    if len(text) < 2 or fits(text):
        return [text]
    middle = len(text) // 2
    return [*_cut_anywhere(text[:middle], fits), *_cut_anywhere(text[middle:], fits)]


def trimmed(part: str) -> tuple[str, str, str]:
    """The white space before a part, what is between, and the white space behind."""
    within = part.strip()
    if not within:
        return part, "", ""
    begin = part.index(within)
    return part[:begin], within, part[begin + len(within) :]
