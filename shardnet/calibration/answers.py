"""What a device gives back of a unit is looked at before it is written: sizes, kinds, and numbers that are none. Pure.

Whether the codes are those that the text asks for is not looked at: that would be to make them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shardnet.foreign.quoting import quoted, shortened
from shardnet.loader.own_blocks import kind_in
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import BLOCKS, SYMMETRIC_TYPES, Stored, stored_as
from shardnet.transport.calibration_messages import QuantisedMatrix, QuantisedUnit

NUMBER_BYTES = 2
"""Of a scale, and of what the middle code stands for: bfloat16."""


def fault_of(
    answer: QuantisedUnit, scheme: str, tensors: Mapping[str, TensorPlace], windows: Sequence[Tensor], hidden_size: int
) -> str:
    """What is wrong with it, as the end of a sentence; '' where it can be what was asked for.

    Args:
        tensors: of the unit, by the names that the model has for them.
        windows: the text that was sent, pieces of T tokens each.
    """
    for name, matrix in answer.matrices.items():
        if name not in tensors:
            return f"a matrix {quoted(name)}, which is none of its tensors"
        fault = _fault_of_matrix(matrix, scheme, tensors[name].shape)
        if fault:
            return f"{fault} for the tensor {shortened(name)}"
    wanted = [(len(window), hidden_size) for window in windows]
    if [tuple(window.shape) for window in answer.windows] != wanted:
        return f"hidden states of other sizes than those of {sum(size for size, _ in wanted)} tokens"
    if any(window.dtype != torch.float32 for window in answer.windows):
        return "hidden states that are no float32"
    return ""


def _fault_of_matrix(matrix: QuantisedMatrix, scheme: str, shape: Sequence[int]) -> str:
    stored = stored_as(matrix.stored)
    kind = "" if stored is None or len(shape) < 2 else kind_in(scheme, stored, shape)
    if stored is None or stored != Stored(kind, is_turned=stored.is_turned):
        return f"blocks of the kind {quoted(matrix.stored)}, which is not that of {scheme},"
    blocks, num_bytes = matrix.blocks, stored.num_bytes(shape)
    if blocks.dtype != torch.uint8 or tuple(blocks.shape) != (num_bytes,):
        return f"{list(blocks.shape)} numbers of {blocks.dtype} instead of {num_bytes} bytes"
    num_numbers = 1 if stored.kind in SYMMETRIC_TYPES else 2
    numbers = blocks.reshape(-1, BLOCKS[stored.kind][1])[:, : num_numbers * NUMBER_BYTES].clone().view(torch.bfloat16)
    return "" if bool(numbers.isfinite().all()) else "scales that are not finite"
