"""Floats to few bits with less loss than plain rounding, without any text: scales and minima are fitted to the codes.

The codes are chosen for a scale and a minimum, and these are fitted to the codes by least squares, in turn; and that
from several beginnings, as a range that leaves out a group's outermost numbers is often a better one. Each group keeps
the best of all that is tried, plain rounding among it.

Half-quadratic splitting (HQQ), which bears a few large errors to make many small ones smaller, was tried in its place
and lost: see docs/quantisation.md.

Shapes: R rows at a time, N outputs, K inputs, G inputs of a group, n groups of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped

RANGES = (1.0, 0.9, 0.8)
"""Parts of a group's range over which the first codes reach."""
NUM_TURNS = 3
"""From each beginning."""
MOST_NUMBERS = 2**20
"""That are fitted at a time: 4 MiB in float32, of which about eight are there at once."""
_TINY = torch.finfo(torch.float32).tiny


class _Fit(NamedTuple):
    """Of some groups [R, n]."""

    scales: Tensor
    minima: Tensor


def fitted(weight: Tensor, group: int, *, bits: int = 4, is_symmetric: bool = False) -> Grouped:
    """A weight [N, K] in few bits, in groups of so many inputs, of which K is a multiple.

    Scales, and what the middle codes stand for, are numbers that bfloat16 has: kernels keep them in it.

    Args:
        is_symmetric: the middle code stands for 0, as for kernels that have no minimum.
    """
    most_rows = max(1, MOST_NUMBERS // weight.shape[1])
    parts = [_fitted(rows, group, bits, is_symmetric) for rows in weight.split(most_rows)]
    codes, scales, minima = (torch.cat(each) for each in zip(*parts, strict=True))
    return Grouped(codes, scales, minima, bits)


def _fitted(rows: Tensor, group: int, bits: int, is_symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and minima of some rows [R, K]."""
    groups = rows.float().unflatten(1, (-1, group))
    best = _begin(groups, bits, RANGES[0], is_symmetric)
    least_error = torch.full_like(best.scales, torch.inf)
    for part in RANGES:
        fit = _begin(groups, bits, part, is_symmetric)
        for _ in range(NUM_TURNS):
            codes = _codes(groups, fit, bits)
            best, least_error = _better(best, least_error, fit, _error(groups, codes, fit))
            fit = _fit(groups, codes, bits, is_symmetric)
        best, least_error = _better(best, least_error, fit, _error(groups, _codes(groups, fit, bits), fit))
    codes = _codes(groups, best, bits).to(torch.uint8)
    return codes.flatten(1), best.scales, best.minima


def _better(best: _Fit, least_error: Tensor, fit: _Fit, error: Tensor) -> tuple[_Fit, Tensor]:
    """Of each group the one with the smaller error, and that."""
    is_better = error < least_error
    scales = torch.where(is_better, fit.scales, best.scales)
    minima = torch.where(is_better, fit.minima, best.minima)
    return _Fit(scales, minima), torch.where(is_better, error, least_error)


def _error(groups: Tensor, codes: Tensor, fit: _Fit) -> Tensor:
    """The sum of squares of each group [R, n]."""
    return (groups - codes * fit.scales[..., None] - fit.minima[..., None]).square_().sum(-1)


def _begin(groups: Tensor, bits: int, part: float, is_symmetric: bool) -> _Fit:
    """Codes over a part of each group's range."""
    most, middle = 2**bits - 1, 2.0 ** (bits - 1)
    if is_symmetric:
        return _kept(groups.abs().amax(-1) * (part / (middle - 1)), None, middle)
    least, greatest = groups.amin(-1), groups.amax(-1)
    scales = (greatest - least) * (part / most)
    return _kept(scales, (least + greatest - scales * most) / 2, middle)


def _fit(groups: Tensor, codes: Tensor, bits: int, is_symmetric: bool) -> _Fit:
    """Scales and minima by least squares."""
    middle = 2.0 ** (bits - 1)
    if is_symmetric:
        signed = codes - middle
        return _kept((signed * groups).sum(-1) / signed.square().sum(-1).clamp(min=_TINY), None, middle)
    mean_code, mean = codes.mean(-1), groups.mean(-1)
    apart = codes - mean_code[..., None]
    scales = (apart * groups).sum(-1) / apart.square().sum(-1).clamp(min=_TINY)
    return _kept(scales, mean - scales * mean_code, middle)


def _kept(scales: Tensor, minima: Tensor | None, middle: float) -> _Fit:
    """In bfloat16; see `fitted`. Minima are None where the middle code stands for 0."""
    scales = scales.bfloat16().float()
    at_middle = torch.zeros_like(scales) if minima is None else (minima + middle * scales).bfloat16().float()
    return _Fit(scales, at_middle - middle * scales)


def _codes(groups: Tensor, fit: _Fit, bits: int) -> Tensor:
    """The nearest ones, as floats."""
    codes = (groups - fit.minima[..., None]) / fit.scales[..., None].clamp(min=_TINY)
    return codes.round_().nan_to_num_(0.0).clamp_(0, 2**bits - 1)
