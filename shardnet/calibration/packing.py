"""A matrix of a unit in floats becomes blocks of 4 bits by what a text shows of its inputs, some outputs at a time.

Shapes: N outputs, K inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shardnet.loader.own_blocks import blocks_of
from shardnet.quantised.calibrated import OUTPUTS, Shown, calibrated, shown_by
from shardnet.quantised.calibrated import working_bytes as of_some_outputs
from shardnet.quantised.schemes import Form


class Energy:
    """Of a matrix's inputs, float32 [K, K]: the sum over all rows that it is fed with of each two inputs' products."""

    def __init__(self, num_inputs: int, device: torch.device) -> None:
        self._sums = torch.zeros(num_inputs, num_inputs, device=device)
        self._num_rows = 0

    def add(self, rows: Tensor) -> None:
        """Rows [..., K]."""
        flat = rows.reshape(-1, len(self._sums)).float()
        self._sums.addmm_(flat.t(), flat)
        self._num_rows += len(flat)

    def shown(self) -> Shown:
        """What they show. It takes the memory: nothing can be added then."""
        return shown_by(self._sums, self._num_rows)


def pack(weight: Tensor, shown: Shown, form: Form) -> Tensor:
    """A matrix [N, K] in 4 bits, whose numbers it has from then on: blocks, uint8 [N, bytes of a row], on the CPU."""
    rows = []
    for some in weight.split(OUTPUTS):
        grouped = calibrated(some, shown, form)
        some.copy_(grouped.floats())
        rows.append(blocks_of(grouped, is_symmetric=form.is_symmetric).view(len(some), -1).cpu())
    return torch.cat(rows)


def working_bytes(num_outputs: int, num_inputs: int) -> int:
    """About what a matrix takes meanwhile, beside its numbers and its blocks."""
    return of_some_outputs(min(num_outputs, OUTPUTS), num_inputs)
