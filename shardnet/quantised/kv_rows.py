"""Keys and values of 8 bits: each head of each token is codes, behind them a scale and a middle of its own.

code * scale + middle is the number. Both are bfloat16, and codes are made from them as they are rounded. What becomes
of a head depends on its numbers alone: neither on other tokens nor on when it is written. One in which a number is not
finite is none at all, so that a session fails by it as it does without rounding.

Shapes: d head dimension, W bytes of a head. What stands before is anything (heads, tokens, sessions).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.kv_names import INT8, MIDDLE_BYTES, SCALE_BYTES, head_bytes

ROW_DTYPE = torch.int8
STEPS = 126.5
"""From the middle to the number that is farthest from it: codes reach 127 when the scale is rounded to bfloat16."""


class Rounded(NamedTuple):
    """Heads, apart."""

    codes: Tensor
    """int8 [..., d], a view."""
    scales: Tensor
    """float32 [...]."""
    middles: Tensor
    """float32 [...]."""


def width_of(head_dim: int) -> int:
    """W."""
    return head_bytes(INT8, head_dim, 1)


def encode(heads: Tensor) -> Tensor:
    """Floats [..., d] -> int8 [..., W]."""
    numbers = heads.float()
    low, high = numbers.aminmax(dim=-1, keepdim=True)
    middles = low.lerp(high, 0.5).bfloat16()
    numbers = numbers - middles.float()
    scales = (numbers.abs().amax(-1, keepdim=True) / STEPS).bfloat16()
    codes = (numbers / scales.float()).nan_to_num_(0.0).round_().clamp_(-127, 127).to(ROW_DTYPE)
    behind = torch.cat((scales, middles), -1).view(ROW_DTYPE)
    if heads.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return torch.cat((codes, behind), -1)


def apart(rows: Tensor, head_dim: int) -> Rounded:
    """int8 [..., W], of which each head lies at an even address."""
    scales_at = rows.shape[-1] - SCALE_BYTES - MIDDLE_BYTES
    behind = rows[..., scales_at:].view(torch.bfloat16).float()
    return Rounded(rows[..., :head_dim], behind[..., 0], behind[..., 1])


def decode(rows: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
    """int8 [..., W] -> floats [..., d]."""
    codes, scales, middles = apart(rows, head_dim)
    return torch.addcmul(middles[..., None], codes.float(), scales[..., None]).to(dtype)
