"""One unit, in floats, whose matrices become 4 bits by what a text shows of their inputs.

What feeds others comes first: each matrix sees what those before it give when they have their 4 bits, within the unit
as between units. The unit, the energies of one matrix's inputs, and the hidden states of the text are there at a time.

Shapes: T tokens of a window of the text, H hidden size, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shardnet.errors import BadRequest
from shardnet.loader.own_blocks import blocks_of, kind_of
from shardnet.loader.stored import Stored
from shardnet.models import Shard
from shardnet.models.few_bits import linears_of
from shardnet.models.kv import Segment
from shardnet.models.packings import Source
from shardnet.models.sizes import context_of
from shardnet.quantised.calibrated import calibrated
from shardnet.quantised.calibrated import working_bytes as of_matrix
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form, form_of
from shardnet.stage.cache import KVCache
from shardnet.transport.calibration_messages import QuantisedMatrix


class _Linear(NamedTuple):
    """A layer whose matrix is to become 4 bits."""

    source: Source
    form: Form


class _Called(nn.Linear):
    """A linear layer that is called as a module, so that hooks see its inputs: a short way multiplies by its weight."""


@torch.inference_mode()
def calibrate(shard: Shard, windows: Sequence[Tensor], scheme: str, names: Sequence[str]) -> dict[str, QuantisedMatrix]:
    """Give the matrices of a block 4 bits, by name; the shard computes with their numbers then.

    Args:
        shard: of one unit, in float32, whose weights no other one has.
        windows: hidden states [T, H] of the text.
        names: of the tensors that may be changed.
    """
    linears = {module: linear for module, linear in _linears(shard, scheme) if linear.source.name in names}
    packed: dict[str, QuantisedMatrix] = {}
    with _called(shard, linears):
        for together in _in_order(shard, windows, linears):
            energy = _energy(shard, windows, together[0])
            packed |= {linears[each].source.name: _pack(each, linears[each], energy) for each in together}
    for module, linear in linears.items():
        if linear.source.name not in packed:  # an expert that nothing in the text was sent to
            packed[linear.source.name] = _pack(module, linear, None)
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


def working_bytes(shard: Shard, scheme: str) -> int:
    """About what `calibrate` takes beside the shard and the windows."""
    sources = [linear.source for _, linear in _linears(shard, scheme)]
    return max((4 * each.num_inputs**2 + of_matrix(each.num_outputs, each.num_inputs) for each in sources), default=0)


def _run(shard: Shard, window: Tensor) -> Tensor:
    cache = KVCache(shard.kv_layout, shard.dtype, device=shard.device).open(0, len(window))
    return shard.forward(window, [Segment(cache, len(window))])


def _linears(shard: Shard, scheme: str) -> Iterator[tuple[nn.Module, _Linear]]:
    for module, source in linears_of(shard.modules):
        form = form_of(scheme, "", source.num_inputs, is_table=False)
        if form is not None and form.fits(source.num_inputs):
            yield module, _Linear(source, form)


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


def _in_order(shard: Shard, windows: Sequence[Tensor], modules: Mapping[nn.Module, Any]) -> list[list[nn.Module]]:
    """The layers as they are called, those together that have the same input."""
    together: list[list[nn.Module]] = []
    seen: set[nn.Module] = set()
    last: list[Tensor] = []

    def see(module: nn.Module, rows: Tensor) -> None:
        is_same = bool(last) and last[0] is rows
        last[:] = [rows]
        if module in seen:
            return
        seen.add(module)
        if is_same and together:
            together[-1].append(module)
        else:
            together.append([module])

    for window in windows:
        if len(seen) < len(modules):
            _watch(shard, window, list(modules), see)
    return together


def _energy(shard: Shard, windows: Sequence[Tensor], module: nn.Module) -> Tensor:
    """The sum over all that a layer is fed with of each two inputs' products, [K, K]."""
    sums: list[Tensor] = []

    def see(_: nn.Module, rows: Tensor) -> None:
        flat = rows.reshape(-1, rows.shape[-1]).float()
        if sums:
            sums[0].addmm_(flat.t(), flat)
        else:
            sums.append(flat.t() @ flat)

    for window in windows:
        _watch(shard, window, [module], see)
    return sums[0]


def _watch(
    shard: Shard, window: Tensor, modules: Sequence[nn.Module], see: Callable[[nn.Module, Tensor], None]
) -> None:
    hooks = [module.register_forward_pre_hook(lambda each, inputs: see(each, inputs[0])) for module in modules]
    try:
        _run(shard, window)
    finally:
        for hook in hooks:
            hook.remove()


def _pack(module: nn.Module, linear: _Linear, energy: Tensor | None) -> QuantisedMatrix:
    """A matrix in 4 bits, whose numbers the layer has from then on. Args: `energy` of its inputs, where it has any."""
    source, form = linear
    parameter = module.weight
    assert isinstance(parameter, Tensor), "it is a linear layer"
    weight = parameter.t() if source.is_transposed else parameter
    grouped = rounded(weight, form) if energy is None else calibrated(weight, energy, form)
    weight.copy_(grouped.floats())
    blocks = blocks_of(grouped, is_symmetric=form.is_symmetric).flatten().cpu()
    return QuantisedMatrix(Stored(kind_of(form), is_turned=source.is_transposed).dtype, blocks)
