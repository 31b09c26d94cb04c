"""What may travel: an allow-list in front of unpickling, and how a tensor is packed. Knows no network.

torch RPC runs whatever pickled function arrives. Here nothing is looked up by name except the classes and functions
that were allowed. This is a second wall: torch's built-in operators are not pickled and so pass it. The first wall is
that agents listen on loopback only, with mutual TLS between hosts.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import torch

from shardnet.transport.failure import Failure
from shardnet.transport.messages import MESSAGE_TYPES

_ALLOWED: dict[tuple[str, str], Any] = {}


def allow(objects: Iterable[Any]) -> None:
    """Let module-level classes and functions arrive by name."""
    for allowed in objects:
        _ALLOWED[allowed.__module__, allowed.__qualname__] = allowed


allow([Failure, *MESSAGE_TYPES])


class AllowListUnpickler(pickle.Unpickler):
    """Looks names up in the allow-list, and nowhere else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not among what may travel") from None


def packed(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as it travels: detached, on the CPU, with no more storage than it shows.

    TensorPipe ships the whole storage of a view that shows more than half of it: a clone ships the view only.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor
