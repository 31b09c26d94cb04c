"""How a text that may be longer than a model's context is read: in windows; each token is scored in one. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Tokens that go through the model together."""

    first: int
    end: int
    scored_from: int
    """What comes before was scored in an earlier window, and is here only read."""


def windows_of(num_tokens: int, size: int) -> list[Window]:
    """Windows of at most `size` tokens, 2 or more, each half a window behind the one before it.

    Every token but the first is scored once, and those behind the first window with half a window before them at least.
    """
    windows = [Window(0, min(size, num_tokens), 1)]
    while windows[-1].end < num_tokens:
        scored_from = windows[-1].end
        first = scored_from - size // 2
        windows.append(Window(first, min(first + size, num_tokens), scored_from))
    return windows
