"""What a matrix of few bits is to be filled with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shardnet.quantised.linear import Held


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint, or a part of one, that becomes part of a matrix."""

    name: str
    shape: torch.Size
    is_transposed: bool
    """It has the outputs in its second dimension."""
    first_element: int = 0
    """Of a part: where it begins in the tensor."""

    @property
    def label(self) -> str:
        """By which it differs from other parts of the tensor."""
        return f"{self.name}@{self.first_element}" if self.first_element else self.name

    @property
    def num_outputs(self) -> int:
        return self.shape[1] if self.is_transposed else self.shape[0]

    @property
    def num_inputs(self) -> int:
        return self.shape[0] if self.is_transposed else self.shape[1]


@dataclass(frozen=True)
class Packing:
    """A matrix that waits for its weights."""

    sources: tuple[Source, ...]
    """Whose outputs lie one behind the other in it."""
    held: Held
