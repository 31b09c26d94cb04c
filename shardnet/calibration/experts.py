"""The experts of a block get 4 bits, each by the rows that its router sends to it.

All that experts are fed with is kept once, and of each row which of them it goes to; the energy of one matrix's inputs
is there at a time. Of an expert that hardly any row goes to little is believed (`calibrated.UNSEEN`), down to plain
rounding.

Shapes: T rows of the text, E experts, k chosen by a row, H hidden size, I inner size, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.calibration.packing import Energy, pack
from shardnet.models.experts import Fused
from shardnet.quantised.schemes import Form

STEP_ROWS = 1024
"""So many of an expert's rows are copied at a time."""


class Routed:
    """What a text sends to the experts of a block.

    Args:
        num_rows: T.
        width: H.
    """

    def __init__(self, num_rows: int, width: int, device: torch.device) -> None:
        self._rows = torch.empty(num_rows, width, device=device)
        self._chosen: list[Tensor] = []
        self._end = 0

    def add(self, rows: Tensor, chosen: Tensor) -> None:
        """The next rows [..., H], and the experts of each [..., k]."""
        flat = rows.reshape(-1, self._rows.shape[1])
        self._rows[self._end : self._end + len(flat)] = flat
        self._chosen.append(chosen.reshape(len(flat), -1))
        self._end += len(flat)

    def sent_to(self, expert: int) -> Iterator[Tensor]:
        """The rows of an expert, some at a time."""
        own = torch.cat([(chosen == expert).any(1) for chosen in self._chosen]).nonzero().flatten()
        for some in own.split(STEP_ROWS):
            yield self._rows[some]


def routed_bytes(num_rows: int, width: int) -> int:
    """About what `Routed` takes."""
    return 4 * num_rows * width


def pack_experts(fused: Fused, forms: Mapping[str, Form | None], routed: Routed) -> dict[str, Tensor]:
    """Give experts 4 bits, one after the other; they compute with their numbers then.

    Args:
        forms: of each of their tensors; None: it stays as it is.

    Returns:
        Blocks, uint8 [E * N, bytes of a row], of each tensor that has a form.
    """
    module: Any = fused.module
    gate_up, down = module.gate_up_proj, module.down_proj

    def inner(rows: Tensor, expert: int) -> Tensor:
        """What its down projection is fed with: by then what leads there has 4 bits."""
        gate, up = F.linear(rows, gate_up[expert]).chunk(2, -1)
        product: Tensor = module.act_fn(gate) * up
        return product

    inputs: tuple[Callable[[Tensor, int], Tensor], ...] = (lambda rows, _: rows, inner)
    blocks: dict[str, list[Tensor]] = {}
    for expert in range(len(gate_up)):
        for (name, form), weights, fed in zip(forms.items(), (gate_up, down), inputs, strict=True):
            if form is not None:
                rows = (fed(some, expert) for some in routed.sent_to(expert))
                blocks.setdefault(name, []).append(_packed(weights[expert], rows, form))
    return {name: torch.cat(parts) for name, parts in blocks.items()}


def _packed(weight: Tensor, inputs: Iterator[Tensor], form: Form) -> Tensor:
    energy = Energy(weight.shape[1], weight.device)
    for rows in inputs:
        energy.add(rows)
    return pack(weight, energy.shown(), form)
