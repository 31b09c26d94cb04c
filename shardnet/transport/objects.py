"""Objects that live on one device and are used from others: RRefs, and the calls of their methods.

The object stands in a table of its device, under an id that the asking device chose. The RRef holds the table's entry,
so the object lives as long as any handle does, wherever handles were sent. Calls name the id instead of carrying the
RRef, which saves torch's counting messages for each of them.
"""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import rpc

from shardnet.errors import ClusterError
from shardnet.transport import wire
from shardnet.transport.answers import explain
from shardnet.transport.base import RemoteObject
from shardnet.transport.entry import attempt, here, reply_with, run_handler
from shardnet.transport.failure import Failure, decode, evicted, lost, private_method, released
from shardnet.transport.outcomes import failed

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from shardnet.transport.base import Handler
    from shardnet.transport.rpc import RpcTransport

_MADE, _FORGET = "objects/made", "objects/forget"

ObjectId = tuple[int, int]
"""The id of the agent that asked for the object, and a number of its own."""


class Kept:
    """An entry of the table: an object, or why there is none."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


class LocalObjects:
    """The objects that live on this device, and the handles that this device has to objects anywhere."""

    def __init__(self) -> None:
        self._kept: weakref.WeakValueDictionary[ObjectId, Kept] = weakref.WeakValueDictionary()
        self._handles: weakref.WeakSet[RpcRemoteObject] = weakref.WeakSet()
        self._numbers = itertools.count()

    def endpoints(self) -> dict[str, Handler]:
        """What other devices ask about objects."""
        return {_MADE: self._check_made, _FORGET: self._forget}

    def next_number(self) -> int:
        """The second half of an object's id."""
        return next(self._numbers)

    def keep(self, object_id: ObjectId, value: Any) -> Kept:
        """Enter an object. The entry stays as long as what is returned is held."""
        kept = self._kept[object_id] = Kept(value)
        return kept

    def find(self, object_id: ObjectId) -> Any:
        """The object with that id.

        Raises:
            ClusterError: it was released by all who held it, or never made.
        """
        kept = self._kept.get(object_id)
        if kept is None:
            raise ClusterError(f"The object {object_id} is no longer here: whoever used it has released it.")
        if type(kept.value) is Failure:
            raise decode(kept.value)
        return kept.value

    def remember(self, handle: RpcRemoteObject) -> None:
        """Release this handle, too, when the device leaves."""
        self._handles.add(handle)

    def release_all(self) -> None:
        """Release every handle of this device: torch complains about RRefs that outlive its agent."""
        for handle in list(self._handles):
            handle.release()

    def _check_made(self, object_id: ObjectId) -> None:
        self.find(object_id)

    def _forget(self, object_id: ObjectId) -> None:
        kept = self._kept.get(object_id)
        if kept is not None:
            kept.value = None


class RpcRemoteObject(RemoteObject):
    """A handle to an object of some device. May be sent to other devices, which then hold the object, too."""

    def __init__(self, transport: RpcTransport, device: str, owner: int, object_id: ObjectId, rref: Any) -> None:
        self.device = device
        self._transport = transport
        self._owner = owner
        self._object_id = object_id
        self._rref = rref
        transport.objects.remember(self)

    def call(self, method: str, *args: Any, timeout_s: float) -> Future[Any]:
        transport = self._transport
        if self._rref is None:
            return failed(released(self.device))
        call = (transport.id, self._object_id, method, args)
        if self._owner == transport.id:
            return transport.own_calls.settle(attempt(method, run_method, *call), method, timeout_s)
        if self._owner in transport.gone:  # another process may have its name by now
            return failed(lost(self.device, method))
        return transport.ask(self.device, method, serve_method, call, timeout_s)

    def release(self) -> None:
        rref, self._rref = self._rref, None
        transport = self._transport
        if rref is None or transport.group.is_first or self._owner in transport.gone:
            return
        # torch counts RRefs for the first agent of a process only. A later one must say so itself, for all holders.
        transport.post(self.device, _FORGET, self._object_id)

    def __reduce__(self) -> tuple[Callable[..., RpcRemoteObject], tuple[Any, ...]]:
        if self._rref is None:
            raise released(self.device)
        fork = self._rref._serialize()
        return adopt, (self.device, self._owner, self._transport.id, self._object_id, fork)


def make_remote(
    transport: RpcTransport, device: str, endpoint: str, args: tuple[Any, ...], timeout_s: float
) -> RpcRemoteObject:
    """Let `device` make an object, and wait until it stands or has failed."""
    object_id = (transport.id, transport.objects.next_number())
    request = (transport.id, object_id, endpoint, args)
    if device == transport.name:
        kept = make_object(*request)
        if type(kept.value) is Failure:
            raise decode(kept.value)
        return RpcRemoteObject(transport, device, transport.id, object_id, rpc.RRef(kept))
    peer = transport.peer(device)
    worker = transport.group.worker(peer.id)
    rref = rpc.remote(worker, serve_object, args=request, timeout=timeout_s)
    try:
        rref._get_future().wait()
    except RuntimeError as error:
        raise explain(error, device, endpoint, timeout_s) from error
    transport.post(device, _MADE, object_id, timeout_s=timeout_s).result()
    return RpcRemoteObject(transport, device, peer.id, object_id, rref)


def make_object(sender: int, object_id: ObjectId, endpoint: str, args: tuple[Any, ...]) -> Kept:
    """Let an endpoint of this device make an object, and enter what it made, or why it could not."""
    return here().objects.keep(object_id, attempt(endpoint, run_handler, sender, endpoint, args))


def serve_object(sender: int, object_id: ObjectId, endpoint: str, args: tuple[Any, ...]) -> Kept | Failure:
    """Answer `Transport.remote` of another device. torch keeps the result for the RRef."""
    kept: Kept | Failure = attempt(endpoint, make_object, sender, object_id, endpoint, args)
    return kept


def run_method(sender: int, object_id: ObjectId, method: str, args: tuple[Any, ...]) -> Any:
    """Call a public method of an object that lives here."""
    transport = here()
    if sender in transport.gone:
        raise evicted(transport.name)
    if method.startswith("_"):
        raise private_method(method)
    return getattr(transport.objects.find(object_id), method)(*args)


@rpc.functions.async_execution
def serve_method(sender: int, object_id: ObjectId, method: str, args: tuple[Any, ...]) -> torch.futures.Future[Any]:
    """Answer `RemoteObject.call` of another device."""
    return reply_with(attempt(method, run_method, sender, object_id, method, args), method)


def adopt(device: str, owner: int, holder: int, object_id: ObjectId, fork: tuple[Any, ...]) -> RpcRemoteObject:
    """Take over a handle that arrives in a message."""
    transport = here()
    for agent_id in {owner, holder} - {transport.id}:
        transport.group.worker(agent_id)  # torch writes to both at once
    return RpcRemoteObject(transport, device, owner, object_id, rpc.PyRRef._deserialize(fork))


wire.allow([serve_object, serve_method, adopt])
