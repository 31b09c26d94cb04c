"""Hidden states as they travel, one row for each token, and back.

The dtype of the rows says which codec they are in: so whoever gets rows can read them, and what was kept stays
readable. A row depends on its token alone, whatever tokens share the step; what is no finite number never becomes one.

Shapes: T tokens, H hidden size, W numbers of a row, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from shardnet.codecs.names import FP8, GROUP, INT8, num_groups, row_bytes
from shardnet.errors import BadRequest
from shardnet.plan import DTYPES

GROUP_STEPS = 126.5
"""Of a group's greatest number, before its scale is rounded to bfloat16: codes reach 127 at most then."""
_FP8 = torch.float8_e4m3fn
_FP8_MOST = 448.0
_CPU = torch.device("cpu")


class Codec(NamedTuple):
    """One way to write hidden states."""

    name: str
    dtype: torch.dtype
    """Of a row's numbers; no two codecs have the same."""
    encode: Callable[[Tensor], Tensor]
    """From hidden states [T, H] in any float dtype, wherever they are, to rows [T, W] on the CPU."""
    decode: Callable[[Tensor, int], Tensor]
    """From rows [T, W] and the hidden size to hidden states [T, H], in the dtype that the codec comes by."""

    def width(self, hidden_size: int) -> int:
        """Numbers of a row."""
        return row_bytes(self.name, hidden_size) // self.dtype.itemsize

    def fits(self, rows: Tensor, hidden_size: int) -> bool:
        """Whether these could be rows of it."""
        return rows.dtype == self.dtype and rows.shape[1:] == (self.width(hidden_size),)


def codec_named(name: str) -> Codec:
    """
    Raises:
        BadRequest: there is none of that name.
    """
    if name not in _BY_NAME:
        raise BadRequest(f"Hidden states cannot travel as {name[:40]!r}: use one of {', '.join(_BY_NAME)}.")
    return _BY_NAME[name]


def codec_for(rows: Tensor, hidden_size: int) -> Codec | None:
    """The codec that rows are in; None where they are no rows of such hidden states."""
    codec = _BY_DTYPE.get(rows.dtype)
    return codec if codec is not None and codec.fits(rows, hidden_size) else None


def decoded(rows: Tensor, hidden_size: int, dtype: torch.dtype) -> Tensor:
    """The hidden states [T, H] of rows that some codec has made."""
    return _BY_DTYPE[rows.dtype].decode(rows, hidden_size).to(dtype)


def _plain(name: str) -> Codec:
    dtype: torch.dtype = getattr(torch, name)
    return Codec(name, dtype, lambda hidden: hidden.to(_CPU, dtype), lambda rows, _: rows)


def _encode_groups(hidden: Tensor) -> Tensor:
    """Codes of all numbers, then the scales of all groups. Where a group has a number that is not finite, its scale is
    none, and so is all of it.
    """
    groups_TG = _in_groups(hidden.to(_CPU, torch.float32))
    scales_TG = (groups_TG.abs().amax(-1) / GROUP_STEPS).bfloat16()
    codes = (groups_TG / scales_TG.float().unsqueeze(-1)).nan_to_num_(0.0).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([codes.flatten(1)[:, : hidden.shape[1]], _bytes_of(scales_TG, torch.int8)], 1)


def _decode_groups(rows: Tensor, size: int) -> Tensor:
    scales_TG = _numbers_in(rows[:, size:], torch.bfloat16)
    groups_TG = _in_groups(rows[:, :size]).float()
    return groups_TG.mul_(scales_TG.float().unsqueeze(-1)).flatten(1)[:, :size]


def _in_groups(rows_TH: Tensor) -> Tensor:
    """[T, G, GROUP], filled up with zeros."""
    num_tokens, size = rows_TH.shape
    return pad(rows_TH, (0, -size % GROUP)).view(num_tokens, num_groups(size), GROUP)


def _encode_tokens(hidden: Tensor) -> Tensor:
    """The bits of all numbers, then the token's scale; where that is not finite, nothing of the token is."""
    hidden = hidden.to(_CPU, torch.float32)
    scales_T1 = hidden.abs().amax(1, keepdim=True) / _FP8_MOST
    numbers = (hidden / scales_T1).nan_to_num_(0.0).clamp_(-_FP8_MOST, _FP8_MOST).to(_FP8)
    return torch.cat([numbers.view(torch.uint8), _bytes_of(scales_T1, torch.uint8)], 1)


def _decode_tokens(rows: Tensor, size: int) -> Tensor:
    return _numbers_in(rows[:, :size], _FP8).float().mul_(_numbers_in(rows[:, size:], torch.float32))


def _bytes_of(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The same memory [T, n] as numbers of one byte."""
    return numbers.flatten().view(dtype).view(len(numbers), numbers.shape[1] * numbers.itemsize)


def _numbers_in(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """What some of the bytes of rows are, in memory of their own: in the rows they may lie at any address."""
    some = rows.clone(memory_format=torch.contiguous_format)
    return some.flatten().view(dtype).view(len(rows), rows.shape[1] // dtype.itemsize)


_ALL = (
    *(_plain(name) for name in DTYPES),
    Codec(INT8, torch.int8, _encode_groups, _decode_groups),
    Codec(FP8, torch.uint8, _encode_tokens, _decode_tokens),
)
_BY_NAME = {codec.name: codec for codec in _ALL}
_BY_DTYPE = {codec.dtype: codec for codec in _ALL}
