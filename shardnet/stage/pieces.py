"""New tokens of a session, and where their rows lie among others'.

Legend: T new tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from shardnet.transport.messages import Part


class Piece(NamedTuple):
    """New tokens of one session, and the first of the rows that are theirs."""

    part: Part
    first_row: int

    def cut(self, size: int) -> tuple[Piece, Piece]:
        """The first `size` tokens, and those behind them."""
        session, position, num_tokens = self.part
        head = Piece(Part(session, position, size), self.first_row)
        tail = Piece(Part(session, position + size, num_tokens - size), self.first_row + size)
        return head, tail


def rows_of(pieces: Sequence[Piece], rows: torch.Tensor) -> torch.Tensor:
    """The rows of `pieces` in their order, out of `rows` [T, H] or [T]; what lies side by side is not copied."""
    slices: list[torch.Tensor] = []
    start = end = pieces[0].first_row
    for piece in pieces:
        if piece.first_row != end:
            slices.append(rows[start:end])
            start = piece.first_row
        end = piece.first_row + piece.part.num_tokens
    if not slices and start == 0 and end == rows.shape[0]:
        return rows
    slices.append(rows[start:end])
    return slices[0] if len(slices) == 1 else torch.cat(slices)
