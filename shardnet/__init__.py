"""shardnet: one language model over several weak devices.

    import shardnet

    with shardnet.Cluster.local(num_devices=3) as cluster:
        model = cluster.load("path-or-hub-id")
        for piece in model.stream("Once upon a time", max_new_tokens=64):
            print(piece, end="")

Every name is imported when it is first used (PEP 562): what needs torch takes seconds, and a command must look after
signals before it imports anything (`launch/cli.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardnet.process.first_use import on_first_use
from shardnet.release import __version__ as __version__

if TYPE_CHECKING:
    from shardnet.cluster.cluster import Cluster
    from shardnet.cluster.load_options import LoadOptions
    from shardnet.cluster.model import Model
    from shardnet.errors import (
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
    from shardnet.interface.ring_model import RingForCausalLM
    from shardnet.plan import DeviceProfile, Link, ModelProfile, Plan
    from shardnet.session.async_stream import AsyncStream
    from shardnet.session.continuations import Continuation
    from shardnet.session.options import GenerationOptions
    from shardnet.session.scores import Scores
    from shardnet.session.stream import Alternative, Generation, Piece, Stream, TokenLogprob
    from shardnet.source.running_cluster import RunningCluster
    from shardnet.tasks.pipeline import Pipeline, pipeline
    from shardnet.timeline.events import Event


__all__ = [
    "Alternative",
    "AsyncStream",
    "BadConfiguration",
    "BadRequest",
    "CallTimeout",
    "Cluster",
    "ClusterError",
    "Continuation",
    "DamagedCheckpoint",
    "DeviceLost",
    "DeviceProfile",
    "DoesNotFit",
    "Event",
    "Generation",
    "GenerationOptions",
    "JoinFailed",
    "KVMemorySpent",
    "Link",
    "LoadOptions",
    "Model",
    "ModelNotFound",
    "ModelProfile",
    "Piece",
    "Pipeline",
    "Plan",
    "RingForCausalLM",
    "RunningCluster",
    "Scores",
    "ShardnetError",
    "Stream",
    "TokenLogprob",
    "UnsupportedModel",
    "UsageError",
    "pipeline",
]

_ERRORS = (
    "BadConfiguration",
    "BadRequest",
    "CallTimeout",
    "ClusterError",
    "DamagedCheckpoint",
    "DeviceLost",
    "DoesNotFit",
    "JoinFailed",
    "KVMemorySpent",
    "ModelNotFound",
    "ShardnetError",
    "UnsupportedModel",
    "UsageError",
)
__getattr__ = on_first_use(
    __name__,
    {
        **dict.fromkeys(_ERRORS, "errors"),
        **dict.fromkeys(("Alternative", "Generation", "Piece", "Stream", "TokenLogprob"), "session.stream"),
        **dict.fromkeys(("DeviceProfile", "Link", "ModelProfile", "Plan"), "plan"),
        "AsyncStream": "session.async_stream",
        "Cluster": "cluster.cluster",
        "Continuation": "session.continuations",
        "Event": "timeline.events",
        "GenerationOptions": "session.options",
        "LoadOptions": "cluster.load_options",
        "Model": "cluster.model",
        **dict.fromkeys(("Pipeline", "pipeline"), "tasks.pipeline"),
        "RingForCausalLM": "interface.ring_model",
        "RunningCluster": "source.running_cluster",
        "Scores": "session.scores",
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
