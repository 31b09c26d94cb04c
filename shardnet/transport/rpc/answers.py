"""Sending a request through torch RPC, and turning what comes back into a future's result or one of our errors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from torch._C._distributed_rpc import _invoke_rpc_python_udf

from shardnet.errors import ClusterError, ShardnetError, UsageError
from shardnet.transport.failure import lost, timed_out
from shardnet.transport.outcomes import settle
from shardnet.transport.rpc.entry import ANSWERED_LATER, Refused
from shardnet.transport.wire.frames import Answer, HandleRecord, Packed, pack

if TYPE_CHECKING:
    from torch.distributed import rpc

    from shardnet.transport.base import RemoteObject
    from shardnet.transport.rpc.edges import Edge

_TIMEOUT = "RPCErr:1:"
"""How torch marks a timeout."""
_BROKEN = "error originated at tensorpipe"
"""What every error of a connection ends with."""
_MAX_S = 1e6
"""torch counts milliseconds in 32 bits."""


class Peer:
    """Another member, and the answers of it that are due."""

    __slots__ = ("edge", "edge_after_s", "id", "name", "pending", "worker")

    def __init__(self, name: str, agent_id: int) -> None:
        self.name = name
        self.id = agent_id
        self.worker: rpc.WorkerInfo | None = None
        """Where torch sends to, once it is known."""
        self.pending: dict[Future[Any], str] = {}
        """Each with the endpoint or method that it is of."""
        self.edge: Edge | None = None
        """The quick way to it, where there is one."""
        self.edge_after_s = float("-inf")
        """When it may be asked for an edge, where there is none."""

    def fail_pending(self, error_of: Callable[[str], ShardnetError]) -> None:
        """Fail what still waits for this member: of a frozen one, torch would only report timeouts."""
        for answer, endpoint in list(self.pending.items()):
            settle(answer, error_of(endpoint))
        if self.edge is not None:
            self.edge.end(error_of)


def packed_for(receiver: int, request: Any) -> tuple[Packed, list[Any]]:
    """A request as it travels to an agent, and what must be kept until it is answered.

    Raises:
        Unsendable: something in it is not among what may travel.
        ClusterError: a handle in it was released.
    """
    kept = []

    def record_of(handle: RemoteObject) -> HandleRecord:
        record: HandleRecord = handle.record_for(receiver)  # type: ignore[attr-defined]
        kept.append(handle.hold)  # type: ignore[attr-defined]
        return record

    return pack(request, record_of), kept


def send(peer: Peer, worker: rpc.WorkerInfo, endpoint: str, request: Any, timeout_s: float) -> Future[Any]:
    """Ask a peer: `rpc_async` less what is not needed here, this is done for every token.

    Raises:
        UsageError: something in the request may not travel.
    """
    try:
        (frame, tensors), kept = packed_for(peer.id, request)
    except Exception as error:
        raise UsageError(f"What {endpoint!r} should send to {peer.name} cannot travel: {error}") from error
    answer: Future[Any] = Future()
    peer.pending[answer] = endpoint
    try:
        # 0 would mean that there is no limit.
        limit_s = min(max(timeout_s, 0.001), _MAX_S)
        is_async = type(request) in ANSWERED_LATER
        reply = _invoke_rpc_python_udf(worker, frame, tensors, limit_s, is_async)  # type: ignore[arg-type]  # takes bytes
    except RuntimeError as error:
        peer.pending.pop(answer, None)
        settle(answer, explain(error, peer.name, endpoint, timeout_s))
        return answer
    reply.add_done_callback(partial(_complete, answer, peer, endpoint, timeout_s, kept))
    return answer


def _complete(answer: Future[Any], peer: Peer, endpoint: str, timeout_s: float, kept: list[Any], reply: Any) -> None:
    """Runs on a thread of torch RPC when the answer is there."""
    peer.pending.pop(answer, None)
    kept.clear()
    try:
        outcome = reply.value()
    except Exception as error:
        settle(answer, explain(error, peer.name, endpoint, timeout_s))
        return
    if type(outcome) is Answer:
        settle(answer, outcome.value)
    else:
        reason = outcome.reason if type(outcome) is Refused else "this is no answer"
        settle(answer, ClusterError(f"{peer.name} could not serve {endpoint!r}: {reason}."))


def explain(error: Exception, device: str, endpoint: str, timeout_s: float) -> ShardnetError:
    """Say in our terms what torch RPC says about a call."""
    text = str(error)
    if text.startswith(_TIMEOUT):
        return timed_out(device, endpoint, timeout_s)
    if _BROKEN in text:
        return lost(device, endpoint)
    if "is no longer running on this node" in text or "RPC has not been initialized" in text:
        return ClusterError("This device has left the cluster.")
    reason = text.split("\n", 1)[0].strip()
    return ClusterError(f"{device} could not serve {endpoint!r}: {reason}")
