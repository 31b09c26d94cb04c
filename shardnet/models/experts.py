"""Experts that `transformers` keeps fused, [E, outputs, inputs] in two tensors: held in few bits, an expert at a time.

All families that are known here have them in the same form: gates and the others as one matrix, then what brings the
product back. Where a family has more (biases, transposed or interleaved matrices) they stay in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from shardnet.models.packings import Packing, Source
from shardnet.quantised.experts import HeldExperts, Products
from shardnet.quantised.kernels.kernel import Kernel, Shape
from shardnet.quantised.linear import Held, HeldLinear
from shardnet.quantised.schemes import Form

_AS_USUAL = {
    "has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True, "has_post_expert_norm": False
}  # fmt: skip
"""What `transformers.integrations.use_experts_implementation` says of a module, with the gating that comes with it."""
_USUAL_GATING = "_default_apply_gate"


class Fused(NamedTuple):
    """The experts of a block."""

    path: str
    module: nn.Module
    tensors: dict[str, torch.Size]
    """[E, outputs, inputs] of both, by their names in the model."""


def fused_in(modules: Mapping[str, nn.Module]) -> Iterator[Fused]:
    """All experts that can be held in few bits."""
    for path, module in modules.items():
        for name, part in module.named_modules(prefix=path):
            if _is_as_usual(part):
                attributes = ("gate_up_proj", "down_proj")
                yield Fused(name, part, {f"{name}.{each}": getattr(part, each).shape for each in attributes})


def unlike_usual(modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """The names of all that may be experts, and cannot be held in few bits."""
    for path, module in modules.items():
        for name, part in module.named_modules(prefix=path):
            if not _is_as_usual(part) and any(each.dim() == 3 for each in part.parameters(recurse=False)):
                yield name


def hold(
    fused: Fused, forms: Mapping[str, Form | None], choose: Callable[[Shape], Kernel | None], device: torch.device
) -> tuple[HeldExperts, list[Packing]] | None:
    """What stands for the experts, and what that is to be filled with; None where all of it stays in floats.

    Args:
        forms: of each of its tensors; None: as floats.
    """
    packings: list[Packing] = []
    products: list[Products] = []
    for name, (num_experts, num_outputs, num_inputs) in fused.tensors.items():
        form = forms[name]
        shape = None if form is None else Shape(form, num_outputs, num_inputs)
        kernel = None if shape is None else choose(shape)
        if shape is None or kernel is None:
            products.append(getattr(fused.module, name.rpartition(".")[2]))
            continue
        matrices = [Held(kernel, shape, device) for _ in range(num_experts)]
        size = torch.Size((num_outputs, num_inputs))
        for expert, held in enumerate(matrices):
            packings.append(Packing((Source(name, size, False, expert * size.numel()),), held))
        products.append(nn.ModuleList(HeldLinear(held, 0, num_outputs, None) for held in matrices))
    if not packings:
        return None
    activation: Any = fused.module.act_fn
    return HeldExperts(products[0], products[1], activation), packings


def _is_as_usual(module: nn.Module) -> bool:
    weights = [getattr(module, name, None) for name in ("gate_up_proj", "down_proj")]
    if not all(isinstance(weight, nn.Parameter) and weight.dim() == 3 for weight in weights):
        return False
    gating = getattr(type(module), "_apply_gate", None)
    says = all(getattr(module, name, None) == value for name, value in _AS_USUAL.items())
    return says and getattr(gating, "__name__", "") == _USUAL_GATING
