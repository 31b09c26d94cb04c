"""A message of the in-process network on its way: what a wire would have made of it."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import torch

from shardnet.transport.base import RemoteObject
from shardnet.transport.wire import AllowListUnpickler, packed

if TYPE_CHECKING:
    from shardnet.transport.in_process_device import InProcessTransport


class Parcel:
    """Pickled content, with its tensors and handles beside it. Opened anew for each arrival."""

    def __init__(self, content: Any) -> None:
        self._tensors_and_handles: list[Any] = []
        buffer = io.BytesIO()
        _Packing(buffer, self._tensors_and_handles).dump(content)
        self._pickled = buffer.getvalue()

    def open(self, receiver: InProcessTransport) -> Any:
        """A copy of the content for a device."""
        return _Unpacking(io.BytesIO(self._pickled), self._tensors_and_handles, receiver).load()


class _Packing(pickle.Pickler):
    def __init__(self, file: io.BytesIO, beside: list[Any]) -> None:
        super().__init__(file)
        self._beside = beside

    def persistent_id(self, part: Any) -> int | None:
        if isinstance(part, torch.Tensor):
            part = packed(part.data).clone()
        elif isinstance(part, RemoteObject):
            handle: Any = part
            part = handle.held_by(handle.owner)
        else:
            return None
        self._beside.append(part)
        return len(self._beside) - 1


class _Unpacking(AllowListUnpickler):
    def __init__(self, file: io.BytesIO, beside: list[Any], receiver: InProcessTransport) -> None:
        super().__init__(file)
        self._beside = beside
        self._receiver = receiver

    def persistent_load(self, index: int) -> Any:
        part = self._beside[index]
        return part.clone() if isinstance(part, torch.Tensor) else part.held_by(self._receiver)
