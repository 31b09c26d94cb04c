"""Which matrices of a unit are held in few bits, and the modules that stand for them then.

Products with the same input become one matrix, where their forms are the same; experts have matrices of their own. What
a module of another kind multiplies by (a router), and what no kernel can hold for its shape, stays in floats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from shardnet.errors import UnsupportedModel
from shardnet.models import experts
from shardnet.models.blocks import Block, Embedding
from shardnet.models.heads import LM_HEAD, SCORE
from shardnet.models.packings import Packing, Source
from shardnet.models.skeleton import SIDE_BY_SIDE, Skeleton
from shardnet.plan import KernelOrder
from shardnet.quantised.kernels.choosing import kernel_for
from shardnet.quantised.kernels.kernel import Kernel, Shape
from shardnet.quantised.linear import Held, HeldLinear, HeldTable
from shardnet.quantised.schemes import AUTO, BY_BITS, Form, bits_of, form_of

LIKE_LINEAR = ("Conv1D", "FalconLinear")
"""Of transformers: layers that are linear as torch's are."""
ROUTERS = ("gate", "router", "shared_expert_gate", "wg")
"""Choose experts: small, and what they choose is not to change."""
KEPT = (*ROUTERS, SCORE)
"""And what tells classes apart."""


@dataclass(frozen=True)
class _Place:
    """A module whose weight may be held in few bits."""

    path: str
    module: nn.Module
    source: Source
    is_table: bool


def hold_in_few_bits(
    skeleton: Skeleton,
    scheme: str | Sequence[str],
    stored: Callable[[str], str],
    dtype: torch.dtype,
    device: torch.device,
    kernels: Sequence[KernelOrder] = (),
) -> dict[int, list[Packing]]:
    """Put modules for few bits where the scheme wants them; what each unit's are to be filled with.

    Args:
        scheme: of all units, or of each unit of the model.
        stored: in which format the checkpoint has a tensor.
        dtype: in which the model computes.
        kernels: which hold a matrix on this device, as far as that was timed.
    """
    choose = partial(kernel_for, dtype=dtype, device=device, orders=kernels)
    packings: dict[int, list[Packing]] = {}
    for unit, modules in skeleton.units():
        packings[unit] = []
        own = scheme if isinstance(scheme, str) else scheme[unit]
        for places in _together(modules, list(_places(skeleton, modules))):
            forms = [_form_of(own, place, stored) for place in places]
            groups = [places] if len(set(forms)) == 1 else [[place] for place in places]
            for group, form in zip(groups, forms, strict=False):
                packing = None if form is None else _pack(modules, group, form, choose, dtype, device)
                if packing is not None:
                    packings[unit].append(packing)
        for fused in list(experts.fused_in(modules)):
            wanted = {
                name: form_of(own, stored(name), shape[2], is_table=False) for name, shape in fused.tensors.items()
            }
            held = experts.hold(fused, wanted, choose, device)
            if held is not None:
                _replace(modules, fused.path, held[0])
                packings[unit] += held[1]
    return packings


def held_bytes(
    skeleton: Skeleton, modules: dict[str, nn.Module], scheme: str, stored: Callable[[str], str], item_bytes: int
) -> int:
    """About what a unit's weights take, before any are there."""
    sizes = {slot.name: slot.shape.numel() * item_bytes for slot in skeleton.slots(modules)}
    for place in _places(skeleton, modules):
        source = place.source
        form = _form_of(scheme, place, stored)
        if form is not None and form.fits(source.num_inputs):
            sizes[source.name] = form.num_bytes(source.num_outputs, source.num_inputs)
    for name, shape in _fused_tensors(modules):
        form = form_of(scheme, stored(name), shape[2], is_table=False)
        if form is not None and form.fits(shape[2]):
            sizes[name] = shape[0] * form.num_bytes(shape[1], shape[2])
    return sum(sizes.values())


def _fused_tensors(modules: dict[str, nn.Module]) -> Iterator[tuple[str, torch.Size]]:
    """Of all experts, by their names in the model: [E, outputs, inputs]."""
    for fused in experts.fused_in(modules):
        yield from fused.tensors.items()


def nearest_scheme(skeleton: Skeleton, scheme: str, stored: Callable[[str], str]) -> str:
    """The scheme that is most like what a model's blocks are held in: one that needs no checkpoint.

    Raises:
        UnsupportedModel: few bits are asked for, and none of its matrices can be held in them.
    """
    num_weights: Counter[int] = Counter()
    for unit, modules in skeleton.units():
        if not 0 < unit < skeleton.num_units_total - 1:
            continue
        sources = [place.source for place in _places(skeleton, modules)]
        sizes = [(source.name, source.num_inputs, source.shape) for source in sources]
        sizes += [(name, shape[-1], shape) for name, shape in _fused_tensors(modules)]
        for name, num_inputs, shape in sizes:
            form = form_of(scheme, stored(name), num_inputs, is_table=False)
            is_held = form is not None and form.fits(num_inputs)
            num_weights[form.bits if form is not None and is_held else 0] += shape.numel()
    most = max(num_weights, key=lambda bits: num_weights[bits], default=0)
    if bits_of(scheme) is None:
        return BY_BITS.get(most, AUTO)
    if not num_weights.keys() - {0}:
        raise UnsupportedModel(
            f"None of the matrices in the blocks of this {skeleton.config.model_type} model can be held as {scheme}: "
            "their rows are not of whole groups. Use bfloat16 or float16."
        )
    return scheme


def _form_of(scheme: str, place: _Place, stored: Callable[[str], str]) -> Form | None:
    source = place.source
    return form_of(scheme, stored(source.name), source.num_inputs, is_table=place.is_table)


def linears_of(modules: Mapping[str, nn.Module]) -> Iterator[tuple[nn.Module, Source]]:
    """The layers of a block whose matrices may be held in few bits, and which tensors of a checkpoint these are."""
    for path, module in modules.items():
        for name, part in module.named_modules(prefix=path):
            if _is_linear(part) and name.rpartition(".")[2] not in ROUTERS:
                is_transposed = not isinstance(part, nn.Linear)
                yield part, Source(f"{name}.weight", part.weight.shape, is_transposed)


def _places(skeleton: Skeleton, modules: dict[str, nn.Module]) -> Iterator[_Place]:
    for path, module in modules.items():
        for name, part in module.named_modules(prefix=path):
            weight = getattr(part, "weight", None)
            is_table = _is_table(skeleton, path, part)
            is_matrix = is_table or _is_linear(part)
            if weight is None or not is_matrix or name.rpartition(".")[2] in KEPT:
                continue
            full_name = f"{name}.weight"
            is_transposed = not is_table and not isinstance(part, nn.Linear)
            source = Source(skeleton.tied.get(full_name, full_name), weight.shape, is_transposed)
            yield _Place(name, part, source, is_table)


def _is_table(skeleton: Skeleton, path: str, module: nn.Module) -> bool:
    """Whether it has a row for each token: an embedding, or a head."""
    if type(module) is nn.Linear:
        return path == LM_HEAD
    if not isinstance(module, nn.Embedding) or module.num_embeddings != skeleton.config.vocab_size:
        return False
    return type(module) in (Embedding, nn.Embedding) or _scale_of(module) is not None


def _scale_of(module: nn.Embedding) -> Tensor | None:
    """What is embedded is multiplied by it: in a block of ours, and in transformers' (Gemma)."""
    scale = module.scale if isinstance(module, Embedding) else getattr(module, "embed_scale", None)
    return scale if isinstance(scale, Tensor) else None


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear or type(module).__name__ in LIKE_LINEAR


def _together(modules: dict[str, nn.Module], places: list[_Place]) -> Iterator[list[_Place]]:
    """Those together that have the same input."""
    by_path = {place.path: place for place in places}
    for path, module in modules.items():
        for names in SIDE_BY_SIDE if isinstance(module, Block) else ():
            yield [by_path.pop(f"{path}.{name.removesuffix('.weight')}") for name in names]
    for place in by_path.values():
        yield [place]


def _pack(
    modules: dict[str, nn.Module],
    places: Sequence[_Place],
    form: Form,
    choose: Callable[..., Kernel | None],
    dtype: torch.dtype,
    device: torch.device,
) -> Packing | None:
    """One matrix for these; None where no kernel can hold it."""
    sources = [place.source for place in places]
    num_outputs = sum(source.num_outputs for source in sources)
    shape = Shape(form, num_outputs, sources[0].num_inputs)
    is_looked_up = any(isinstance(place.module, nn.Embedding) for place in places)
    kernel = choose(shape, is_looked_up=is_looked_up)
    if kernel is None:
        return None
    held = Held(kernel, shape, device)
    first_output = 0
    for place in places:
        _replace(modules, place.path, _standing_for(place, held, first_output, dtype))
        first_output += place.source.num_outputs
    return Packing(tuple(sources), held)


def _standing_for(place: _Place, held: Held, first_output: int, dtype: torch.dtype) -> nn.Module:
    module = place.module
    if isinstance(module, nn.Embedding):
        return HeldTable(held, dtype, _scale_of(module))
    bias = getattr(module, "bias", None)
    return HeldLinear(held, first_output, place.source.num_outputs, bias)


def _replace(modules: dict[str, nn.Module], path: str, new: nn.Module) -> None:
    if path in modules:
        modules[path] = new
        return
    top = next(name for name in modules if path.startswith(f"{name}."))
    owner, _, name = path.removeprefix(f"{top}.").rpartition(".")
    setattr(modules[top].get_submodule(owner), name, new)
