"""Floats to 4 bits with less loss than by plain rounding, where a text has shown what a matrix multiplies (GPTQ).

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023. Input by input the codes are chosen, and what each is off by is made up for by the inputs that
are still to come, as far as they go together in the text. The inputs with the most energy are first, with scales and
minima that were chosen for the whole matrix before: each group takes the range with the least error, in which inputs
count by their energy.

Shapes: N outputs, K inputs, G inputs of a group, n groups of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Parts of a group's range that are tried."""
DAMPING = 0.01
"""Part of the mean energy that is added to each input's, so that what the text shows little of is believed little."""
MOST_DAMPING = 1e3
BLOCK = 64
"""Inputs whose errors are made up for among themselves before the others hear of them."""
_TINY = torch.finfo(torch.float32).tiny


def calibrated(weight: Tensor, energy: Tensor, form: Form) -> Grouped:
    """Weight [N, K] in a form of 4 bits.

    Scales, and what the middle codes stand for, are numbers that bfloat16 has, as `rounding.rounded` makes them.

    Args:
        energy: float32 [K, K], the sum over a text's tokens of each two inputs' products.
    """
    wide = weight.float()
    energies = energy.diagonal() + DAMPING * _mean(energy)
    group = form.group_of(weight.shape[1])
    scales, minima = _scales(wide, energies, group, form)
    order = energies.argsort(descending=True, stable=True)
    codes = _codes(wide[:, order], _upper(energy, order), scales, minima, order // group, 2**form.bits - 1)
    in_place = torch.empty_like(codes)
    in_place[:, order] = codes
    return Grouped(in_place, scales, minima, form.bits)


def working_bytes(num_outputs: int, num_inputs: int) -> int:
    """About what it takes beside the weight and the energy."""
    return 4 * (4 * num_inputs**2 + 4 * num_outputs * num_inputs)


def _mean(energy: Tensor) -> Tensor:
    """Of the energies; one that the text never shows has as much as any where it shows none."""
    return energy.diagonal().mean().clamp(min=_TINY)


def _upper(energy: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped energy, its inputs in this order.

    It is the inverse of R where the energy is R R^T and R an upper triangle: the factor of the energy turned round.
    """
    backward = order.flip(0)
    mean, damping = _mean(energy), DAMPING
    while damping < MOST_DAMPING:
        turned = energy[backward][:, backward]
        turned.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(turned)
        if not failed:
            del turned
            ones = torch.eye(len(lower), device=lower.device)
            upper = torch.linalg.solve_triangular(lower, ones, upper=False).flip(0, 1)
            if bool(upper.isfinite().all()):
                return upper
        damping *= 10
    return torch.eye(len(energy), device=energy.device)  # plain rounding


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


def _codes(weight: Tensor, upper: Tensor, scales: Tensor, minima: Tensor, groups: Tensor, most: int) -> Tensor:
    """Codes [N, K], uint8, one input after the other.

    Args:
        weight: its inputs in the order in which they come; it is written over.
        groups: of each input, in that order.
    """
    num_outputs, num_inputs = weight.shape
    columns = weight.t().contiguous()  # an input's weights lie together
    scales_by_group, minima_by_group = scales.t().contiguous(), minima.t().contiguous()
    codes = torch.empty(num_inputs, num_outputs, dtype=torch.uint8, device=weight.device)
    group_of = groups.tolist()
    for first in range(0, num_inputs, BLOCK):
        end = min(first + BLOCK, num_inputs)
        errors = torch.empty(end - first, num_outputs, device=weight.device)
        for place in range(first, end):
            column, scale, least = columns[place], scales_by_group[group_of[place]], minima_by_group[group_of[place]]
            code = _nearest(column, scale, least, most)
            codes[place] = code
            error = column.sub_(code.mul_(scale).add_(least)).div_(upper[place, place])
            errors[place - first] = error
            columns[place + 1 : end].addr_(upper[place, place + 1 : end], error, alpha=-1.0)
        columns[end:].addmm_(upper[first:end, end:].t(), errors, alpha=-1.0)
    return codes.t().contiguous()


def _nearest(numbers: Tensor, scales: Tensor, minima: Tensor, most: int) -> Tensor:
    """Codes, as floats."""
    return ((numbers - minima) / scales.clamp(min=_TINY)).round_().nan_to_num_(0.0).clamp_(0, most)


def _kept(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()
