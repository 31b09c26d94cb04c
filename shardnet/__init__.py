"""shardnet: one language model over several weak devices.

    import shardnet

    with shardnet.Cluster.local(num_devices=3) as cluster:
        model = cluster.load("path-or-hub-id")
        for piece in model.stream("Once upon a time", max_new_tokens=64):
            print(piece, end="")

Errors and plain records are imported at once, as they need the standard library only. What needs torch is imported when
it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    BadConfiguration,
    BadRequest,
    CallTimeout,
    ClusterError,
    DamagedCheckpoint,
    DeviceLost,
    DoesNotFit,
    JoinFailed,
    KVMemorySpent,
    ModelNotFound,
    ShardnetError,
    UnsupportedModel,
    UsageError,
)
from .plan import DeviceProfile, LinkProfile, ModelProfile, Plan

if TYPE_CHECKING:
    from .cluster.async_stream import AsyncStream
    from .cluster.cluster import Cluster
    from .cluster.model import Model
    from .cluster.stream import Generation, Stream

__version__ = "0.1.0"

__all__ = [
    "AsyncStream",
    "BadConfiguration",
    "BadRequest",
    "CallTimeout",
    "Cluster",
    "ClusterError",
    "DamagedCheckpoint",
    "DeviceLost",
    "DeviceProfile",
    "DoesNotFit",
    "Generation",
    "JoinFailed",
    "KVMemorySpent",
    "LinkProfile",
    "Model",
    "ModelNotFound",
    "ModelProfile",
    "Plan",
    "ShardnetError",
    "Stream",
    "UnsupportedModel",
    "UsageError",
]

_LAZY = {
    "AsyncStream": "shardnet.cluster.async_stream",
    "Cluster": "shardnet.cluster.cluster",
    "Generation": "shardnet.cluster.stream",
    "Model": "shardnet.cluster.model",
    "Stream": "shardnet.cluster.stream",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'shardnet' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
