"""The last hidden states of one session, where the head is. Shapes: t rows, H hidden size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class RowMemory:
    """
    Args:
        first: the position of the first token of which one is kept.
        hidden: a row for each token from there on that the session has room for, [n, H], on the CPU.
    """

    def __init__(self, first: int, hidden: Tensor) -> None:
        self.first = first
        self._hidden = hidden

    def read(self, first: int, end: int) -> Tensor:
        """Those of the tokens from `first` to `end`, which are there: [end - first, H]."""
        return self._hidden[first - self.first : end - self.first]

    def write(self, position: int, hidden_tH: Tensor) -> None:
        """Keep those of the tokens from `position` on, but for those that come before the first one that is kept."""
        skipped = max(self.first - position, 0)
        if skipped < len(hidden_tH):
            begin = position + skipped - self.first
            self._hidden[begin : begin + len(hidden_tH) - skipped] = hidden_tH[skipped:]


class KeptTokens:
    """The new tokens of one session in a step, whose hidden states are kept: see `Segment.read`."""

    __slots__ = ("_memory", "_position")

    def __init__(self, memory: RowMemory, position: int) -> None:
        self._memory = memory
        self._position = position

    def fill(self, hidden_TH: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        """See `AtHead`."""
        self._memory.write(self._position, hidden_TH.cpu())
