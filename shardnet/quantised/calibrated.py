"""Floats to 4 bits with less loss than by plain rounding, where a text has shown what a matrix multiplies (GPTQ).

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023. Input by input the codes are chosen, and what each is off by is made up for by the inputs that
are still to come, as far as they go together in the text. The inputs with the most energy are first, with scales and
minima that were chosen for the whole matrix before: each group takes the range with the least error, in which inputs
count by their energy.

Shapes: N outputs, K inputs, G inputs of a group, n groups of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Parts of a group's range that are tried."""
DAMPING = 0.01
"""Part of the mean energy that is added to each input's, so that what the text shows little of is believed little."""
MOST_DAMPING = 1e3
UNSEEN = 0.5
"""So many rows for each input are taken to have come beside those of the text, in which all inputs have the mean
energy, each for itself: the fewer rows a text has, the less is believed of how inputs go together in it."""
BLOCK = 64
"""Inputs whose errors are made up for among themselves before the others hear of them."""
OUTPUTS = 1024
"""So many of a matrix become codes at a time: what is needed meanwhile is in proportion."""
_ROWS = 64
"""Of a matrix [K, K] that are put in another order at a time."""
_TINY = torch.finfo(torch.float32).tiny


class Shown(NamedTuple):
    """What a text shows of a matrix's inputs."""

    energies: Tensor
    """Of each input, float32 [K]."""
    order: Tensor
    """int64 [K]: those with the most energy first."""
    upper: Tensor
    """float32 [K, K], in that order: the upper Cholesky factor of the inverse of the energy."""


def shown_by(energy: Tensor, num_rows: int) -> Shown:
    """What so many rows show. Without any, all inputs count the same, and none makes up for another.

    Args:
        energy: float32 [K, K], the sum over the rows of each two inputs' products. It is written over, and becomes part
            of the answer.
    """
    mean = float(energy.diagonal().mean())
    if not _TINY < mean < float("inf"):  # no rows, rows of zeros, or numbers that cannot be reckoned with
        energy.zero_().fill_diagonal_(1.0)
        return Shown(energy.diagonal().clone(), torch.arange(len(energy), device=energy.device), energy)
    believed = num_rows / (num_rows + UNSEEN * len(energy))
    energy.mul_(believed / mean).diagonal().add_(1.0 - believed + DAMPING)
    energies = energy.diagonal().clone()
    order = energies.argsort(descending=True, stable=True)
    return Shown(energies, order, _upper(energy, order))


def calibrated(weight: Tensor, shown: Shown, form: Form) -> Grouped:
    """Weight [N, K] in a form of 4 bits. What comes of an output does not depend on the others, but for the last bit.

    Scales, and what the middle codes stand for, are numbers that bfloat16 has, as `rounding.rounded` makes them.
    """
    wide = weight.float()
    group = form.group_of(weight.shape[1])
    scales, minima = _scales(wide, shown.energies, group, form)
    columns = wide.t().index_select(0, shown.order)  # an input's weights lie together
    codes = _codes(columns, shown.upper, scales, minima, shown.order // group, 2**form.bits - 1)
    in_place = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    in_place[:, shown.order] = codes.t()
    return Grouped(in_place, scales, minima, form.bits)


def working_bytes(num_outputs: int, num_inputs: int) -> int:
    """About what `shown_by` takes with its energy, and `calibrated` then takes for so many outputs beside their
    weight."""
    return 4 * (2 * num_inputs**2 + 4 * num_outputs * num_inputs)


def _upper(energy: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the energy, its inputs in this order; in the memory of the energy.

    It is the inverse of R where the energy is R R^T and R an upper triangle: the factor of the energy turned round,
    turned round. A second matrix [K, K] is there meanwhile, and no third.
    """
    backward, failed = order.flip(0), torch.empty((), dtype=torch.int32, device=energy.device)
    turned, damping = torch.empty_like(energy), DAMPING
    while damping < MOST_DAMPING:
        for rows, part in zip(backward.split(_ROWS), turned.split(_ROWS), strict=True):
            torch.index_select(energy.index_select(0, rows), 1, backward, out=part)
        factor = turned.t()  # the same, as it is symmetric, and laid out as the factor will be
        torch.linalg.cholesky_ex(factor, out=(factor, failed))
        if not failed:
            _turn_round(turned)
            energy.zero_().fill_diagonal_(1.0)
            torch.linalg.solve_triangular(factor, energy, upper=True, out=energy)
            least, most = energy.aminmax()
            if bool(least.isfinite() and most.isfinite()):
                return energy
            break
        energy.diagonal().add_(9 * damping)
        damping *= 10
    return energy.zero_().fill_diagonal_(1.0)  # plain rounding


def _turn_round(matrix: Tensor) -> None:
    """The last row first, and of each row the last column."""
    flat = matrix.view(-1)
    half, step = len(flat) // 2, _ROWS * len(matrix)
    for first in range(0, half, step):
        end = min(first + step, half)
        begin, rest = flat[first:end], flat[len(flat) - end : len(flat) - first]
        kept = begin.flip(0)
        begin.copy_(rest.flip(0))
        rest.copy_(kept)


def _scales(weight: Tensor, energies: Tensor, group: int, form: Form) -> tuple[Tensor, Tensor]:
    """Scales and minima [N, n]: of the ranges that are tried the one with the least error."""
    groups, weights = weight.unflatten(1, (-1, group)), energies.unflatten(0, (-1, group))
    best_error = scales = minima = torch.empty(0)
    for part in RANGES:
        tried, least = _range(groups, part, form)
        codes = _nearest(groups, tried[..., None], least[..., None], 2**form.bits - 1)
        error = (codes * tried[..., None] + least[..., None] - groups).square_().mul_(weights).sum(-1)
        if part == RANGES[0]:
            best_error, scales, minima = error, tried, least
            continue
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        scales, minima = torch.where(is_better, tried, scales), torch.where(is_better, least, minima)
    return scales, minima


def _range(groups: Tensor, part: float, form: Form) -> tuple[Tensor, Tensor]:
    """Scales and minima of codes over a part of each group's range."""
    most, middle = 2**form.bits - 1, 2.0 ** (form.bits - 1)
    if form.is_symmetric:
        scales = _kept(groups.abs().amax(-1) * (part / (middle - 1)))
        return scales, scales * -middle
    least, greatest = groups.amin(-1), groups.amax(-1)
    scales = _kept((greatest - least) * (part / most))
    return scales, _kept((least + greatest) / 2 + (middle - most / 2) * scales) - middle * scales


def _codes(columns: Tensor, upper: Tensor, scales: Tensor, minima: Tensor, groups: Tensor, most: int) -> Tensor:
    """Codes [K, N], uint8, one input after the other.

    Args:
        columns: the weight [K, N], its inputs in the order in which they come; it is written over.
        groups: of each input, in that order.
    """
    num_inputs, num_outputs = columns.shape
    scales_by_group, minima_by_group = scales.t().contiguous(), minima.t().contiguous()
    codes = torch.empty(num_inputs, num_outputs, dtype=torch.uint8, device=columns.device)
    group_of = groups.tolist()
    for first in range(0, num_inputs, BLOCK):
        end = min(first + BLOCK, num_inputs)
        errors = torch.empty(end - first, num_outputs, device=columns.device)
        for place in range(first, end):
            column, scale, least = columns[place], scales_by_group[group_of[place]], minima_by_group[group_of[place]]
            code = _nearest(column, scale, least, most)
            codes[place] = code
            error = column.sub_(code.mul_(scale).add_(least)).div_(upper[place, place])
            errors[place - first] = error
            columns[place + 1 : end].addr_(upper[place, place + 1 : end], error, alpha=-1.0)
        columns[end:].addmm_(upper[first:end, end:].t(), errors, alpha=-1.0)
    return codes


def _nearest(numbers: Tensor, scales: Tensor, minima: Tensor, most: int) -> Tensor:
    """Codes, as floats."""
    return ((numbers - minima) / scales.clamp(min=_TINY)).round_().nan_to_num_(0.0).clamp_(0, most)


def _kept(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()
