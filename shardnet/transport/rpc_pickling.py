"""Puts `wire` into torch RPC: its allow-list before every message of this process, and its packing of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.distributed.rpc import internal

from shardnet.transport import wire


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Callable[[int], torch.Tensor], tuple[int]]:
    """Put a tensor into the table of the message that this thread pickles, and its index into the message."""
    table: list[torch.Tensor] = internal._thread_local_tensor_tables.send_tables
    table.append(wire.packed(tensor))
    return tensor_at, (len(table) - 1,)


def tensor_at(index: int) -> torch.Tensor:
    """Take a tensor out of the table of the message that this thread unpickles."""
    tensor: torch.Tensor = internal._thread_local_tensor_tables.recv_tables[index]
    return tensor


def install() -> None:
    """From now on, unpickle nothing that is not allowed. Safe to call again."""
    wire.allow([internal.PythonUDF, tensor_at])
    for tensor_class in (torch.Tensor, torch.nn.Parameter):
        internal._internal_rpc_pickler._register_reducer(tensor_class, _reduce_tensor)
    internal._unpickler = wire.AllowListUnpickler
