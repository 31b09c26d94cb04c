"""The blocks of our own in which `shardnet quantise` writes matrices of 4 bits: see `stored`, and `gguf.blocks` for the
way back.

    N4_G    scale (bfloat16) | what code 8 stands for (bfloat16) | G / 2 bytes
    S4_G    scale (bfloat16) | G / 2 bytes; code 8 stands for 0

Byte i of a block's codes has that of input i in its low half, and that of input i + G / 2 in its high one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shardnet.loader.gguf.blocks import MIDDLE
from shardnet.loader.stored import OWN_TYPES, Stored, stored_as
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form, form_of


def kind_of(form: Form) -> str:
    """Of `stored.OWN_TYPES`, that for a form of 4 bits in groups."""
    return f"{'S' if form.is_symmetric else 'N'}{form.bits}_{form.group}"


def kind_in(scheme: str, stored: Stored, shape: Sequence[int]) -> str:
    """The kind that a matrix of blocks of our own has in a scheme; '' where it can have none.

    Args:
        stored: of the matrix: whether it is turned.
    """
    num_inputs = shape[0] if stored.is_turned else shape[-1]
    form = form_of(scheme, "", num_inputs, is_table=False)
    return kind_of(form) if form is not None and form.fits(num_inputs) else ""


def is_made_so(scheme: str, dtype: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of a checkpoint in that scheme can be stored so: what is in no blocks of our own can."""
    stored = stored_as(dtype)
    return stored is None or stored.kind not in OWN_TYPES or stored.kind == kind_in(scheme, stored, shape)


def blocks_of(weight: Grouped, *, is_symmetric: bool) -> Tensor:
    """The bytes, uint8 [N * K / G, bytes of a block], of a weight whose scales and middles bfloat16 has."""
    scales = weight.scales.view(-1, 1)
    numbers = [scales]
    if not is_symmetric:
        numbers.append(weight.minima.view(-1, 1) + MIDDLE * scales)
    low, high = weight.codes.view(len(scales), -1).chunk(2, 1)
    heads = [each.bfloat16().contiguous().view(torch.uint8).view(len(scales), -1) for each in numbers]
    return torch.cat([*heads, low | high << 4], 1)
