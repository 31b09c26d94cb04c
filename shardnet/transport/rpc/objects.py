"""Objects that live on one device and are used from others: RRefs, and the calls of their methods.

The object stands in a table of its device, under an id that the asking device chose. The RRef holds the table's entry,
so the object lives as long as any handle does, wherever handles were sent. Calls name the id instead of carrying the
RRef, which saves torch's counting messages for each of them. A handle that comes home brings no RRef either: the owner
finds its object by the id, and whoever sent it keeps it alive until it is answered.

torch counts RRefs for the first agent of a process only. A process that is in its second cluster does without: its
object lives until the handle that it got from `remote` is released, and handles that it sends or receives only borrow.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch._C._distributed_rpc import _invoke_remote_python_udf
from torch.distributed import rpc

from shardnet.errors import ClusterError
from shardnet.transport.base import RemoteObject
from shardnet.transport.failure import Failure, evicted, lost, private_method, released
from shardnet.transport.outcomes import failed
from shardnet.transport.rpc.answers import explain, packed_for
from shardnet.transport.rpc.entry import ANSWERED_LATER, SERVES, run_prompt_handler
from shardnet.transport.rpc.presence import attempt, here
from shardnet.transport.rpc.replies import reply_later
from shardnet.transport.wire.frames import CallMethod, Claim, HandleRecord, ObjectId, Post

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from shardnet.transport.base import Handler
    from shardnet.transport.rpc.transport import RpcTransport
    from shardnet.transport.timers import Timer, Timers

_MAKE, _FORGET = "objects/make", "objects/forget"

_RREF_TYPE = "PyObject"
"""What torch calls the type of all that our RRefs hold."""


UNCLAIMED_S = 120.0
"""After which an object is let go of whose asker has given up. It claims the object when it hears that there is one."""


class Kept:
    """An entry of the table."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Any) -> None:
        self.value = value


class LocalObjects:
    """The objects that live on this device, and the handles that this device has to objects anywhere."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._kept: weakref.WeakValueDictionary[ObjectId, Kept] = weakref.WeakValueDictionary()
        self._unclaimed: dict[ObjectId, Kept] = {}
        """What no RRef holds: made a moment ago, or for a process that cannot have RRefs."""
        self._expiring: dict[ObjectId, Timer] = {}
        self._lock = threading.Lock()
        """Of the handles: some arrive while all are released."""
        self._handles: weakref.WeakSet[RpcRemoteObject] = weakref.WeakSet()
        self._numbers = itertools.count()

    def endpoints(self) -> dict[str, Handler]:
        """What other devices ask about objects. Each is given first who asks."""
        return {_MAKE: self._make, _FORGET: self._forget}

    def next_number(self) -> int:
        """The second half of an object's id."""
        return next(self._numbers)

    def _make(
        self, sender: int, object_id: ObjectId, endpoint: str, args: tuple[Any, ...], is_claimed_later: bool
    ) -> Failure | None:
        """Let an endpoint make an object, and keep it until it is claimed."""
        self._check_asker(sender, object_id)
        made = attempt(endpoint, run_prompt_handler, sender, endpoint, args)
        if type(made) is Failure:
            return made
        self._kept[object_id] = self._unclaimed[object_id] = Kept(made)
        if is_claimed_later:
            self._expiring[object_id] = self._timers.after(UNCLAIMED_S, partial(self.claim, object_id))
        return None

    def _forget(self, sender: int, object_id: ObjectId) -> None:
        self._check_asker(sender, object_id)
        self.claim(object_id)

    def _check_asker(self, sender: int, object_id: ObjectId) -> None:
        if object_id[0] != sender:
            raise ClusterError("An object has the number of the device that asked for it.")

    def claim(self, object_id: ObjectId) -> Kept | None:
        """Hand an entry over to an RRef, or to nobody."""
        expiring = self._expiring.pop(object_id, None)
        if expiring is not None:
            expiring.cancel()
        return self._unclaimed.pop(object_id, None)

    def forget_unclaimed_of(self, agent_id: int) -> None:
        """Let go of what a device that is gone has left unclaimed."""
        for object_id in [unclaimed for unclaimed in list(self._unclaimed) if unclaimed[0] == agent_id]:
            self.claim(object_id)

    def keeper(self, object_id: ObjectId) -> Kept:
        """The entry with that id. It stays as long as somebody has it.

        Raises:
            ClusterError: it was released by all who held it.
        """
        kept = self._kept.get(object_id)
        if kept is None:
            raise ClusterError(f"The object {object_id} is no longer here: whoever used it has released it.")
        return kept

    def remember(self, handle: RpcRemoteObject) -> None:
        """Release this handle, too, when the device leaves."""
        with self._lock:
            self._handles.add(handle)

    def release_all(self) -> None:
        """Release every handle of this device: torch complains about RRefs that outlive its agent."""
        with self._lock:
            handles = list(self._handles)
        for handle in handles:
            handle.release()


class RpcRemoteObject(RemoteObject):
    """A handle to an object of some device. May be sent to other devices, which then hold the object, too."""

    def __init__(self, transport: RpcTransport, device: str, owner: int, object_id: ObjectId, hold: Any) -> None:
        """`hold` keeps the object: an RRef, or the table's entry where it lives here, or nothing."""
        self.device = device
        self._transport = transport
        self._owner = owner
        self._object_id = object_id
        self._hold = hold
        self._is_released = False
        transport.objects.remember(self)

    def call(self, method: str, *args: Any, timeout_s: float) -> Future[Any]:
        transport = self._transport
        if self._is_released:
            return failed(released(self.device))
        if self._owner == transport.id:
            outcome = attempt(method, run_method, transport.id, self._object_id, method, args)
            return transport.own_calls.settle(outcome, method, timeout_s)
        if self._owner in transport.gone:  # another process may have its name by now
            return failed(lost(self.device, method))
        return transport.ask(self.device, method, CallMethod(transport.id, self._object_id, method, args), timeout_s)

    def release(self) -> None:
        transport = self._transport
        if self._is_released:
            return
        self._is_released = True
        is_maker = self._object_id[0] == transport.id
        if self._hold is None and is_maker and self._owner not in transport.gone:
            transport.post(self.device, _FORGET, self._object_id)
        self._hold = None

    @property
    def hold(self) -> Any:
        """What keeps the object alive."""
        return self._hold

    def record_for(self, receiver: int) -> HandleRecord:
        """What travels to an agent. torch counts one holder more from now on, unless the object lives there.

        Raises:
            ClusterError: the handle was released.
        """
        if self._is_released:
            raise released(self.device)
        if type(self._hold) is Kept and receiver != self._owner and self._transport.group.is_first:
            self._hold = rpc.RRef(self._hold)
        fork = None
        if isinstance(self._hold, rpc.PyRRef) and receiver != self._owner:
            *fork, _ = self._hold._serialize()
        return HandleRecord(
            self.device, self._owner, self._transport.id, self._object_id, None if fork is None else tuple(fork)
        )


def handles_that_arrive(records: Sequence[HandleRecord]) -> Sequence[RpcRemoteObject]:
    """Take over the handles of a message.

    Raises:
        ClusterError: one is to nothing, or to an object of a device that is not in the cluster.
        RuntimeError: torch knows better what is counted.
    """
    return [_adopt(record) for record in records] if records else ()


def _adopt(record: HandleRecord) -> RpcRemoteObject:
    transport = here()
    hold: Any = None
    if record.owner == transport.id:
        hold = transport.objects.keeper(record.object_id)
    elif record.fork is not None and transport.group.is_first:
        owner, maker, _, _, _, holder = record.fork
        if (owner, maker, holder) != (record.owner, record.object_id[0], record.holder):
            raise ClusterError("A handle contradicts itself.")
        for agent_id in {record.owner, record.holder} - {transport.id}:
            transport.group.worker(agent_id)  # torch writes to both at once
        hold = rpc.PyRRef._deserialize((*record.fork, _RREF_TYPE))
    return RpcRemoteObject(transport, record.device, record.owner, record.object_id, hold)


def make_remote(
    transport: RpcTransport, device: str, endpoint: str, args: tuple[Any, ...], timeout_s: float
) -> RpcRemoteObject:
    """Let `device` make an object, wait until it stands or has failed, and let an RRef claim it.

    One call of `rpc.remote` could do both, but the future of its RRef never completes when that fails (torch 2.13).
    """
    object_id = (transport.id, transport.objects.next_number())
    made = Post(transport.id, _MAKE, (object_id, endpoint, args, transport.group.is_first))
    if device == transport.name:
        outcome = attempt(_MAKE, run_prompt_handler, *made)
        transport.own_calls.settle(outcome, endpoint, timeout_s).result()
        kept = transport.objects.claim(object_id) if transport.group.is_first else None
        return RpcRemoteObject(transport, device, transport.id, object_id, kept)
    peer = transport.peer(device)
    transport.ask(device, endpoint, made, timeout_s).result()
    rref = None
    if transport.group.is_first:
        worker = transport.group.worker(peer.id)
        (claim, _), _ = packed_for(peer.id, Claim(object_id))
        try:
            rref = _invoke_remote_python_udf(worker, claim, [], timeout_s, False)  # type: ignore[arg-type]
        except RuntimeError as error:  # raised here only where the connection is known to be broken
            raise explain(error, device, endpoint, timeout_s) from error
    return RpcRemoteObject(transport, device, peer.id, object_id, rref)


def _serve_claim(object_id: ObjectId) -> Kept | None:
    """Hand an object that was made here over to the RRef of the device that asked for it."""
    kept = attempt(_MAKE, lambda: here().objects.claim(object_id))
    return kept if type(kept) is Kept else None


def run_method(sender: int, object_id: ObjectId, method: str, args: tuple[Any, ...]) -> Any:
    """Call a public method of an object that lives here."""
    transport = here()
    if sender in transport.gone:
        raise evicted(transport.name)
    if method.startswith("_"):
        raise private_method(method)
    return getattr(transport.objects.keeper(object_id).value, method)(*args)


def _serve_method(sender: int, object_id: ObjectId, method: str, args: tuple[Any, ...]) -> torch.futures.Future[Any]:
    """Answer `RemoteObject.call` of another device."""
    return reply_later(attempt(method, run_method, sender, object_id, method, args), method, sender)


SERVES.update({CallMethod: _serve_method, Claim: _serve_claim})
ANSWERED_LATER.add(CallMethod)
