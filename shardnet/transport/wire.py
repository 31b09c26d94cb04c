"""What may travel over torch RPC: an allow-list in front of unpickling, and how a tensor is packed.

torch RPC runs whatever pickled function arrives. Here nothing is looked up by name except the classes and functions in
`_ALLOWED`. This is a second wall: torch's built-in operators are not pickled and so pass it. The first wall is that
agents listen on loopback only, with mutual TLS between hosts.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.rpc import internal

from shardnet.transport.failure import Failure

_ALLOWED: dict[tuple[str, str], Any] = {}


def allow(objects: Iterable[Any]) -> None:
    """Let module-level classes and functions arrive by name."""
    for allowed in objects:
        _ALLOWED[allowed.__module__, allowed.__qualname__] = allowed


class AllowListUnpickler(pickle.Unpickler):
    """Looks names up in the allow-list, and nowhere else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not among what may travel") from None


def _pack_tensor(tensor: torch.Tensor) -> tuple[Callable[[int], torch.Tensor], tuple[int]]:
    """Move a tensor to the message's tensor table: detached, on the CPU, with no more storage than it shows.

    TensorPipe ships the whole storage of a view that shows more than half of it: a clone ships the view only.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    table: list[torch.Tensor] = internal._thread_local_tensor_tables.send_tables
    table.append(tensor)
    return _unpack_tensor, (len(table) - 1,)


def _unpack_tensor(index: int) -> torch.Tensor:
    """Take a tensor out of the table of the message that this thread unpickles."""
    tensor: torch.Tensor = internal._thread_local_tensor_tables.recv_tables[index]
    return tensor


_installed = threading.Lock()


def install() -> None:
    """Put the allow-list in front of every message of torch RPC in this process. Safe to call again."""
    from shardnet.transport.messages import MESSAGE_TYPES

    with _installed:
        allow([internal.PythonUDF, Failure, _unpack_tensor, *MESSAGE_TYPES])
        for tensor_class in (torch.Tensor, torch.nn.Parameter):
            internal._internal_rpc_pickler._register_reducer(tensor_class, _pack_tensor)
        internal._unpickler = AllowListUnpickler
