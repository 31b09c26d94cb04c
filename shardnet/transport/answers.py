"""Sending a request through torch RPC, and turning what comes back into a future's result or one of our errors."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from torch._C._distributed_rpc import _invoke_rpc_python_udf
from torch.distributed.rpc.internal import PythonUDF, _internal_rpc_pickler

from shardnet.errors import ClusterError, ShardnetError, UsageError
from shardnet.transport.failure import lost, timed_out
from shardnet.transport.outcomes import settle

if TYPE_CHECKING:
    from torch.distributed import rpc

_TIMEOUT = "RPCErr:1:"
"""How torch marks a timeout."""
_BROKEN = "error originated at tensorpipe"
"""What every error of a connection ends with."""
_MAX_S = 1e6
"""torch counts milliseconds in 32 bits."""


class Peer:
    """Another member, and the answers of it that are due."""

    __slots__ = ("id", "name", "pending", "worker")

    def __init__(self, name: str, agent_id: int) -> None:
        self.name = name
        self.id = agent_id
        self.worker: rpc.WorkerInfo | None = None
        """Where torch sends to, once it is known."""
        self.pending: set[Future[Any]] = set()

    def fail_pending(self, error: ShardnetError) -> None:
        """Fail what still waits for this member: of a frozen one, torch would only report timeouts."""
        for answer in list(self.pending):
            settle(answer, error)


def send(
    peer: Peer, worker: rpc.WorkerInfo, endpoint: str, function: Any, args: tuple[Any, ...], timeout_s: float
) -> Future[Any]:
    """Run an entry function on a peer: `rpc_async` less what is not needed here, this is done for every token.

    Raises:
        UsageError: something in `args` cannot be pickled.
    """
    try:
        payload, tensors = _internal_rpc_pickler.serialize(PythonUDF(function, args, {}))
    except Exception as error:
        raise UsageError(f"What {endpoint!r} should send to {peer.name} cannot travel: {error}") from error
    answer: Future[Any] = Future()
    peer.pending.add(answer)
    is_async = hasattr(function, "_wrapped_async_rpc_function")
    try:
        # 0 would mean that there is no limit.
        limit_s = min(max(timeout_s, 0.001), _MAX_S)
        reply = _invoke_rpc_python_udf(worker, payload, tensors, limit_s, is_async)
    except RuntimeError as error:
        peer.pending.discard(answer)
        settle(answer, explain(error, peer.name, endpoint, timeout_s))
        return answer
    reply.add_done_callback(partial(_complete, answer, peer, endpoint, timeout_s))
    return answer


def _complete(answer: Future[Any], peer: Peer, endpoint: str, timeout_s: float, reply: Any) -> None:
    """Runs on a thread of torch RPC when the answer is there."""
    peer.pending.discard(answer)
    try:
        outcome = reply.value()
    except Exception as error:
        outcome = explain(error, peer.name, endpoint, timeout_s)
    settle(answer, outcome)


def explain(error: Exception, device: str, endpoint: str, timeout_s: float) -> ShardnetError:
    """Say in our terms what torch RPC says about a call."""
    text = str(error)
    if text.startswith(_TIMEOUT):
        return timed_out(device, endpoint, timeout_s)
    if _BROKEN in text:
        return lost(device, endpoint)
    if "is no longer running on this node" in text or "RPC has not been initialized" in text:
        return ClusterError("This device has left the cluster.")
    reason = next((line for line in text.splitlines() if "may travel" in line or "pickle" in line), text.split("\n")[0])
    return ClusterError(f"{device} could not serve {endpoint!r}: {reason.strip()}")
