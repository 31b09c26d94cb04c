"""New tokens of a session, and where their rows lie among others'.

Legend: T new tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from shardnet.speculation.tags import cut
from shardnet.transport.messages import Part


class Piece(NamedTuple):
    """New tokens of one session, and the first of the rows that are theirs."""

    part: Part
    first_row: int

    def cut(self, size: int) -> tuple[Piece, Piece]:
        """The first `size` tokens, and those behind them."""
        part = self.part
        num_behind = part.num_tokens - size
        head_tags, tail_tags = cut(part.tags, part.num_tokens, size)
        num_guesses = max(part.num_guesses - num_behind, 0)
        head = part._replace(num_tokens=size, num_guesses=num_guesses, tags=head_tags)
        tail = part._replace(position=part.position + size, num_tokens=num_behind, tags=tail_tags)
        return Piece(head, self.first_row), Piece(tail, self.first_row + size)


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
