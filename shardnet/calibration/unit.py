"""One unit, in floats, whose matrices become 4 bits by what a text shows of their inputs.

What feeds others comes first: each matrix sees what those before it give when they have their 4 bits, within the unit
as between units. The unit, the energies of one matrix's inputs, and the hidden states of the text are there at a time;
of a mixture once more, as its experts are fed with them.

Shapes: T tokens of a window of the text, H hidden size, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shardnet.calibration.experts import Routed, pack_experts, routed_bytes
from shardnet.calibration.packing import Energy, pack
from shardnet.calibration.packing import working_bytes as of_matrix
from shardnet.errors import BadRequest
from shardnet.loader.own_blocks import kind_of
from shardnet.loader.pieces import PART_MARK
from shardnet.loader.stored import Stored
from shardnet.models import Shard
from shardnet.models.experts import Fused, fused_in
from shardnet.models.few_bits import linears_of
from shardnet.models.kv import Segment
from shardnet.models.packings import Source
from shardnet.models.sizes import context_of
from shardnet.quantised.schemes import Form, form_of
from shardnet.stage.cache import KVCache
from shardnet.transport.calibration_messages import QuantisedMatrix


class _Linear(NamedTuple):
    """A layer whose matrix is to become 4 bits."""

    source: Source
    form: Form


class _Experts(NamedTuple):
    """Experts whose matrices are to become 4 bits, one of their two tensors at least."""

    fused: Fused
    forms: dict[str, Form | None]
    """Of each tensor; None: it stays as it is."""

    @property
    def width(self) -> int:
        """Of what they are fed with: H."""
        return next(iter(self.fused.tensors.values()))[2]


class _Called(nn.Linear):
    """A linear layer that is called as a module, so that hooks see its inputs: a short way multiplies by its weight."""


@torch.inference_mode()
def calibrate(shard: Shard, windows: Sequence[Tensor], scheme: str, names: Sequence[str]) -> dict[str, QuantisedMatrix]:
    """Give the matrices of a block 4 bits, by name; the shard computes with their numbers then.

    Args:
        shard: of one unit, in float32, whose weights no other one has.
        windows: hidden states [T, H] of the text.
        names: of the tensors that may be changed, or of the parts that they are stored in (`pieces`).
    """
    own = set(map(_tensor_of, names))
    linears = {module: linear for module, linear in _linears(shard, scheme) if linear.source.name in own}
    mixtures = {module: experts for module, experts in _mixtures(shard, scheme) if experts.forms.keys() <= own}
    packed: dict[str, QuantisedMatrix] = {}
    with _called(shard, linears):
        for together in _in_order(shard, windows, linears, mixtures):
            first = together[0]
            if first in mixtures:
                packed |= _pack_experts(shard, windows, mixtures[first], names)
            else:
                packed |= _pack_layers(shard, windows, {each: linears[each] for each in together})
    for module, linear in linears.items():
        if linear.source.name not in packed:  # nothing in the text was sent to it
            packed |= _pack_layers(shard, (), {module: linear})
    return packed


def check_windows(shard: Shard, windows: Sequence[Tensor]) -> None:
    """See that a shard can read a text: an id out of range, say, may end a whole process.

    Raises:
        BadRequest: it is none, or no ids [T] of the model's where the shard has the embedding, else no finite float32
            [T, H].
    """
    if not windows:
        raise BadRequest("There is no text by which a unit could be quantised.")
    width, limit = shard.config.hidden_size, context_of(shard.config)
    for window in windows:
        fits = 0 < len(window) <= limit if window.dim() else False
        if shard.has_embedding:
            fits = fits and window.dtype == torch.int64 and window.dim() == 1
            fits = fits and int(window.min()) >= 0 and int(window.max()) < shard.config.vocab_size
        else:
            fits = fits and window.dtype == torch.float32 and window.shape[1:] == (width,)
            fits = fits and bool(window.isfinite().all())
        if not fits:
            shown = f"Numbers of {window.dtype} and shape {tuple(window.shape)}"
            raise BadRequest(f"{shown} are no text for unit {shard.first_unit}, or not finite.")


def text_bytes(shard: Shard, windows: Sequence[Tensor]) -> int:
    """What the text takes before and behind the shard."""
    return sum(window.nbytes + 4 * len(window) * shard.config.hidden_size for window in windows)


@torch.inference_mode()
def outputs_of(shard: Shard, windows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Hidden states [T, H] behind the shard, of windows [T, H], or [T] of ids where it has the embedding."""
    return tuple(_run(shard, window) for window in windows)


def working_bytes(shard: Shard, scheme: str, windows: Sequence[Tensor]) -> int:
    """About what `calibrate` takes beside the shard and the windows: for its largest matrix, for what becomes of all,
    and for what experts are fed with."""
    matrices = [(each.form, 1, each.source.num_outputs, each.source.num_inputs) for _, each in _linears(shard, scheme)]
    mixtures = list(_mixtures(shard, scheme))
    for _, (fused, forms) in mixtures:
        for name, form in forms.items():
            if form is not None:
                count, outputs, inputs = fused.tensors[name]
                matrices.append((form, count, outputs, inputs))
    meanwhile = max((of_matrix(outputs, inputs) for _, _, outputs, inputs in matrices), default=0)
    blocks = sum(count * form.num_bytes(outputs, inputs) for form, count, outputs, inputs in matrices)
    routed = max((routed_bytes(sum(map(len, windows)), experts.width) for _, experts in mixtures), default=0)
    return meanwhile + blocks + routed


def _tensor_of(name: str) -> str:
    """The tensor of the model that a tensor of the checkpoint is, or is a part of."""
    return name.partition(PART_MARK)[0]


def _run(shard: Shard, window: Tensor) -> Tensor:
    cache = KVCache(shard.kv_layout, shard.dtype, device=shard.device).open(0, len(window))
    return shard.forward(window, [Segment(cache, len(window))])


def _linears(shard: Shard, scheme: str) -> Iterator[tuple[nn.Module, _Linear]]:
    for module, source in linears_of(shard.modules):
        form = form_of(scheme, "", source.num_inputs, is_table=False)
        if form is not None and form.fits(source.num_inputs):
            yield module, _Linear(source, form)


def _mixtures(shard: Shard, scheme: str) -> Iterator[tuple[nn.Module, _Experts]]:
    for fused in fused_in(shard.modules):
        forms: dict[str, Form | None] = {}
        for name, (_, _, num_inputs) in fused.tensors.items():
            form = form_of(scheme, "", num_inputs, is_table=False)
            forms[name] = form if form is not None and form.fits(num_inputs) else None
        if any(forms.values()):
            yield fused.module, _Experts(fused, forms)


@contextmanager
def _called(shard: Shard, modules: Mapping[nn.Module, Any]) -> Iterator[None]:
    """In this block the layers are called, each by itself."""
    plain = [module for module in modules if type(module) is nn.Linear]
    for module in plain:
        module.__class__ = _Called
    shard.relink()
    try:
        yield
    finally:
        for module in plain:
            module.__class__ = nn.Linear
        shard.relink()


def _in_order(
    shard: Shard, windows: Sequence[Tensor], linears: Collection[nn.Module], mixtures: Collection[nn.Module]
) -> list[list[nn.Module]]:
    """Layers and experts as they are called: those layers together that have the same input, and experts by
    themselves."""
    together: list[list[nn.Module]] = []
    seen: set[nn.Module] = set()
    last: list[Tensor] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        is_same = bool(last) and last[0] is inputs[0] and module not in mixtures
        last[:] = inputs[:1] if module not in mixtures else ()
        if module in seen:
            return
        seen.add(module)
        if is_same and together:
            together[-1].append(module)
        else:
            together.append([module])

    modules = [*linears, *mixtures]
    for window in windows:
        if len(seen) < len(modules):
            _watch(shard, window, modules, see)
    return together


def _watch(
    shard: Shard, window: Tensor, modules: Sequence[nn.Module], see: Callable[[nn.Module, tuple[Tensor, ...]], None]
) -> None:
    hooks = [module.register_forward_pre_hook(see) for module in modules]
    try:
        _run(shard, window)
    finally:
        for hook in hooks:
            hook.remove()


def _pack_layers(
    shard: Shard, windows: Sequence[Tensor], layers: Mapping[nn.Module, _Linear]
) -> dict[str, QuantisedMatrix]:
    """Layers that have the same input get 4 bits, and compute with their numbers from then on."""
    first, linear = next(iter(layers.items()))
    energy = Energy(linear.source.num_inputs, shard.device)
    for window in windows:
        _watch(shard, window, [first], lambda _, inputs: energy.add(inputs[0]))
    shown = energy.shown()
    packed: dict[str, QuantisedMatrix] = {}
    for module, (source, form) in layers.items():
        parameter = module.weight
        assert isinstance(parameter, Tensor), "it is a linear layer"
        blocks = pack(parameter.t() if source.is_transposed else parameter, shown, form)
        stored = Stored(kind_of(form), is_turned=source.is_transposed)
        packed[source.name] = QuantisedMatrix(stored.dtype, blocks.flatten())
    return packed


def _pack_experts(
    shard: Shard, windows: Sequence[Tensor], experts: _Experts, names: Sequence[str]
) -> dict[str, QuantisedMatrix]:
    """The same of experts, by the names of what the checkpoint has them in: all in one tensor, or each in its own."""
    routed = Routed(sum(map(len, windows)), experts.width, shard.device)
    for window in windows:
        _watch(shard, window, [experts.fused.module], lambda _, inputs: routed.add(inputs[0], inputs[1]))
    packed: dict[str, QuantisedMatrix] = {}
    for name, blocks in pack_experts(experts.fused, experts.forms, routed).items():
        form, num_inputs = experts.forms[name], experts.fused.tensors[name][2]
        assert form is not None, "it was packed"
        keys = (key for key in names if _tensor_of(key) == name)
        first = {int(key.partition(PART_MARK)[2] or 0) // num_inputs: key for key in keys}
        starts = sorted(first)
        for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True):
            packed[first[start]] = QuantisedMatrix(Stored(kind_of(form)).dtype, blocks[start:end].flatten())
    return packed
