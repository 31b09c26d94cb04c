"""The experts of a block, of which each token takes a few: matrices of few bits, one or two an expert.

Shapes: T rows, E experts, k chosen by a row, H hidden size, I inner size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Products = nn.ModuleList | nn.Parameter
"""A layer for each expert; or all their matrices as floats, one behind the other, where no kernel can hold these."""


class HeldExperts(nn.Module):
    """Stands where `transformers` has experts fused. What comes of a row does not depend on those beside it.

    Args:
        gate_up_proj: H to 2 I, gates before the others.
        down_proj: I to H.
    """

    def __init__(self, gate_up_proj: Products, down_proj: Products, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate_up_proj = gate_up_proj
        self.down_proj = down_proj
        self.activation = activation

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[T, H], and of each row the experts [T, k] and what they count for [T, k] -> [T, H]."""
        num_rows, num_chosen = top_k_index.shape
        experts = top_k_index.reshape(-1)
        order = experts.argsort(stable=True)
        rows = hidden_states[order // num_chosen]
        outputs, first = torch.empty_like(rows), 0
        for expert, num in enumerate(torch.bincount(experts).tolist()):
            if num:
                own = rows[first : first + num]
                gate, up = _times(self.gate_up_proj, expert, own).chunk(2, -1)
                outputs[order[first : first + num]] = _times(self.down_proj, expert, self.activation(gate) * up)
                first += num
        weighted = outputs.view(num_rows, num_chosen, rows.shape[1]) * top_k_weights[..., None]
        return weighted.sum(1).to(hidden_states.dtype)


def _times(products: Products, expert: int, rows: Tensor) -> Tensor:
    if isinstance(products, nn.ModuleList):
        outputs: Tensor = products[expert](rows)
        return outputs
    return F.linear(rows, products[expert])
