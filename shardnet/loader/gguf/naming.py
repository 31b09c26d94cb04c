"""What transformers calls the tensors of a GGUF file, and what it does to their values, by its own tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.libraries import read_by_others
from shardnet.loader.gguf.head import NAMED
from shardnet.loader.gguf.header import GgufHeader
from shardnet.models.facts import FACTS

if TYPE_CHECKING:
    from shardnet.models import Skeleton

Shapes = Mapping[str, tuple[int, ...]]
"""Of the tensors that a model wants, by their names."""


class Naming(NamedTuple):
    """transformers' tables for one model."""

    processor: Any
    """Its `TensorProcessor`: what it does to values."""
    names: dict[str, str]
    """The model's name of each tensor by the one in the file. Fused experts have none of their own: `blk.0.ffn_up_exps`
    is listed without `.weight`.
    """


def naming_of(header: GgufHeader, raw_config: dict[str, Any], skeleton: Skeleton) -> Naming:
    """
    Args:
        raw_config: as transformers reads it from the file.
        skeleton: of the whole model.

    Raises:
        UnsupportedModel: there are no such tables.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    config = skeleton.config
    called = FACTS[config.model_type].gguf or config.model_type

    def unknown(reason: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"The tensors in {header.path.name} cannot be named as those of a {config.model_type} model ({reason}). "
            "Use the model's safetensors version."
        )

    with read_by_others(unknown):
        processor = TENSOR_PROCESSORS.get(called, TensorProcessor)(config=raw_config)
        names = get_gguf_hf_weights_map(_Names(config, _names_in(skeleton)), processor)
        return Naming(processor, names | NAMED)


def wanted_shapes(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Of all tensors that a checkpoint must hold, by their names in the model."""
    return {slot.name: tuple(slot.shape) for _, modules in skeleton.units() for slot in skeleton.slots(modules)}


def require_shape(header: GgufHeader, name: str, found: Iterable[int], wanted: Iterable[int]) -> None:
    """See that a tensor of the file is as large as the model's.

    Raises:
        DamagedCheckpoint: it is not.
    """
    if tuple(found) != tuple(wanted):
        raise DamagedCheckpoint(
            f"The tensor {name} in {header.path} should have the shape {list(wanted)} and has {list(found)}. "
            "Download it again."
        )


def require_all(header: GgufHeader, missing: list[str], shapes: Shapes) -> None:
    """
    Raises:
        DamagedCheckpoint: tensors of the model are missing in the file.
    """
    if missing:
        raise DamagedCheckpoint(
            f"{header.path} lacks {len(missing)} of {len(shapes)} tensors, {missing[0]} among them. Download it again."
        )


def _names_in(skeleton: Skeleton) -> list[str]:
    """Of all tensors, tied ones under both names."""
    modules = (pair for _, unit in skeleton.units() for pair in unit.items())
    return [f"{path}.{name}" for path, module in modules for name in module.state_dict()]


class _Names:
    """What transformers' table looks at of a model: its tensors' names, and those of the decoder inside it.

    It asks for the parts of parts, too, which takes a second for every ten blocks and finds nothing.
    """

    def __init__(self, config: Any, names: list[str], path: str | None = None) -> None:
        self.config = config
        self._names = names
        self._path = FACTS[config.model_type].base if path is None else path

    def state_dict(self) -> dict[str, None]:
        return dict.fromkeys(self._names)

    def named_children(self) -> list[tuple[str, _Names]]:
        part, _, rest = self._path.partition(".")
        inside = [name.removeprefix(f"{part}.") for name in self._names if name.startswith(f"{part}.")]
        return [(part, _Names(self.config, inside, rest))] if part else []
