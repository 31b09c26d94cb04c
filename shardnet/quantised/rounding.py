"""Floats to few bits by plain rounding: for each group the codes between its least and its greatest number.

Shapes: N outputs, K inputs, G inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

_TINY = torch.finfo(torch.float32).tiny


def rounded(weight: Tensor, form: Form) -> Grouped:
    """Weight [N, K] in a form.

    Scales, and what the middle codes stand for, are numbers that bfloat16 has: kernels keep them in it, and the codes
    are chosen for what is kept. Whole rows of 8 bits are symmetric, as their kernels have no minimum.
    """
    groups = weight.float().unflatten(1, (-1, form.group_of(weight.shape[1])))
    most, middle = 2**form.bits - 1, 2.0 ** (form.bits - 1)
    if form.bits == 8 or form.is_symmetric:
        scales = _kept(groups.abs().amax(-1) / (middle - 1))
        minima = scales * -middle
    else:
        least, greatest = groups.amin(-1), groups.amax(-1)
        scales = _kept((greatest - least) / most)
        minima = _kept(least + middle * scales) - middle * scales
    codes = ((groups - minima[..., None]) / scales[..., None].clamp(min=_TINY)).round_()
    return Grouped(codes.nan_to_num_(0.0).clamp_(0, most).flatten(1).to(torch.uint8), scales, minima, form.bits)


def _kept(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()
