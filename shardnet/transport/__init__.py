"""How devices reach each other: one interface (`base`), over torch RPC between processes or within one for tests.

The names are imported when they are first used, so that the in-process network needs no torch.distributed.rpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardnet.first_use import on_first_use
from shardnet.transport.base import Handler, OnChange, RemoteObject, Transport

if TYPE_CHECKING:
    from shardnet.transport.in_process import InProcessNetwork, InProcessTransport
    from shardnet.transport.rpc import RpcTransport
    from shardnet.transport.store import serve_store

__all__ = [
    "Handler",
    "InProcessNetwork",
    "InProcessTransport",
    "OnChange",
    "RemoteObject",
    "RpcTransport",
    "Transport",
    "serve_store",
]

__getattr__ = on_first_use(
    __name__,
    {
        "InProcessNetwork": "in_process",
        "InProcessTransport": "in_process",
        "RpcTransport": "rpc",
        "serve_store": "store",
    },
)
