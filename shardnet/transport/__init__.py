"""How devices reach each other: one interface (`base`), over torch RPC between processes or within one for tests.

The names are imported when they are first used, so that the in-process network needs no torch.distributed.rpc.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_LAZY = {
    "InProcessNetwork": "shardnet.transport.in_process",
    "InProcessTransport": "shardnet.transport.in_process",
    "RpcTransport": "shardnet.transport.rpc",
    "serve_store": "shardnet.transport.store",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
