"""How devices reach each other: one interface (`base`), over torch RPC between processes or within one for tests.

The names are imported when they are first used, so that the in-process network needs no torch.distributed.rpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardnet.process.first_use import on_first_use
from shardnet.transport.base import Handler, RemoteObject, Transport

if TYPE_CHECKING:
    from shardnet.transport.door.door import serve_door
    from shardnet.transport.in_process.device import InProcessTransport
    from shardnet.transport.in_process.network import InProcessNetwork
    from shardnet.transport.rpc.transport import RpcTransport

__all__ = [
    "Handler",
    "InProcessNetwork",
    "InProcessTransport",
    "RemoteObject",
    "RpcTransport",
    "Transport",
    "serve_door",
]

__getattr__ = on_first_use(
    __name__,
    {
        "InProcessNetwork": "in_process.network",
        "InProcessTransport": "in_process.device",
        "RpcTransport": "rpc.transport",
        "serve_door": "door.door",
    },
)
