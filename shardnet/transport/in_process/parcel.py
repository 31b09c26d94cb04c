"""A message of the in-process network on its way: what a wire would have made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardnet.transport.wire import registered  # noqa: F401 - so that all of it may travel
from shardnet.transport.wire.reader import Reader
from shardnet.transport.wire.writer import Writer

if TYPE_CHECKING:
    from shardnet.transport.in_process.device import InProcessTransport


class Parcel:
    """Content as bytes, with its handles and large tensors beside it. Opened anew for each arrival."""

    def __init__(self, content: Any) -> None:
        """Raises Unsendable where something in it may not travel, and ClusterError where a handle was released."""
        writer = Writer()
        writer.write(content)
        self._written = writer.joined()
        self._tensors = [tensor.clone() for tensor in writer.tensors]
        handles: list[Any] = writer.handles
        self._handles = [handle.held_by(handle.owner) for handle in handles]

    def open(self, receiver: InProcessTransport) -> Any:
        """A copy of the content for a device."""
        reader = Reader(self._written)
        reader.handles = [handle.held_by(receiver) for handle in self._handles]
        reader.tensors = [tensor.clone() for tensor in self._tensors]
        return reader.read()
