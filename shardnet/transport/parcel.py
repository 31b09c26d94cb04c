"""A message of the in-process network on its way: what a wire would have made of it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

from shardnet.transport.base import RemoteObject
from shardnet.transport.wire import AllowListUnpickler, packed


class Parcel:
    """Pickled content, with its tensors and handles beside it. Opened anew for each arrival."""

    def __init__(self, content: Any) -> None:
        self._beside: list[Any] = []
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer)
        pickler.persistent_id = self._put_beside  # type: ignore[method-assign]
        pickler.dump(content)
        self._pickled = buffer.getvalue()

    def _put_beside(self, part: Any) -> int | None:
        if isinstance(part, torch.Tensor):
            self._beside.append(packed(part.data).clone())
        elif isinstance(part, RemoteObject):
            self._beside.append(part.held_by(part.owner)  # type: ignore[attr-defined])
        else:
            return None
        return len(self._beside) - 1

    def open(self, receiver: Any) -> Any:
        """A copy of the content for a device."""

        def take(index: int) -> Any:
            part = self._beside[index]
            return part.held_by(receiver) if isinstance(part, RemoteObject) else part.clone()

        unpickler = AllowListUnpickler(io.BytesIO(self._pickled))
        unpickler.persistent_load = take  # type: ignore[method-assign]
        return unpickler.load()
