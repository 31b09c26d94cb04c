"""A device of the in-process network: a transport with handlers, and its handles to objects of others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from shardnet.errors import ClusterError, UsageError
from shardnet.transport import failure
from shardnet.transport.base import Handler, OnMembers, RemoteObject, Transport
from shardnet.transport.in_process.parcel import Parcel
from shardnet.transport.outcomes import failed
from shardnet.transport.own_calls import OwnCalls
from shardnet.transport.timers import Timer
from shardnet.transport.wire.frames import pack_posted
from shardnet.transport.wire.values import Undecodable, Unsendable

if TYPE_CHECKING:
    from shardnet.transport.in_process.network import InProcessNetwork

Function = Callable[..., Any]
MAKING_S = 5.0
"""Of real time: what makes an object computes, and is no faster where the network is."""


class InProcessTransport(Transport):
    """A device of an `InProcessNetwork`."""

    def __init__(self, network: InProcessNetwork, name: str, member_id: int) -> None:
        """Use `InProcessNetwork.join` instead."""
        self.name = name
        self.id = member_id
        self.network = network
        self.is_dead = False
        self._handlers: dict[str, Handler] = {}
        self._own_calls = OwnCalls(name, network.timers)
        self._closed = False

    def expose(self, endpoint: str, handler: Handler) -> None:
        self._handlers[endpoint] = handler

    def post(self, device: str, endpoint: str, *args: Any, timeout_s: float = 30.0) -> Future[Any]:
        run = _run_prompt_handler if device == self.name else _run_posted
        return self._ask(device, endpoint, partial(run, endpoint), args, timeout_s)

    def call(self, device: str, endpoint: str, *args: Any, timeout_s: float) -> Future[Any]:
        return self._ask(device, endpoint, partial(_run_handler, endpoint), args, timeout_s)

    def remote(self, device: str, endpoint: str, *args: Any, timeout_s: float = 30.0) -> RemoteObject:
        wait_s = max(timeout_s, MAKING_S * self.network.timers.speed)
        handle: InProcessRemoteObject = self._ask(
            device, endpoint, partial(_make_object, endpoint), args, wait_s
        ).result()
        return handle

    def after(self, delay_s: float, function: Callable[[], object]) -> Timer:
        return self.network.timers.after(delay_s, lambda: None if self._closed or self.is_dead else function())

    def _ask(
        self, device: str, endpoint: str, function: Function, args: tuple[Any, ...], timeout_s: float
    ) -> Future[Any]:
        target = self.network.member(device)
        if self._closed:
            return failed(failure.has_left(self.name))
        if target is None:
            return failed(failure.not_a_member(device))
        return self.ask(target, endpoint, function, args, timeout_s)

    def ask(
        self,
        target: InProcessTransport,
        endpoint: str,
        function: Function,
        args: tuple[Any, ...],
        timeout_s: float,
    ) -> Future[Any]:
        """Run a function at a device, through the network unless it is this one."""
        if target is self:
            outcome = self.attempt_at(self, endpoint, function, args)
            return self._own_calls.settle(outcome, endpoint, timeout_s)
        return self.network.ask(self, target, endpoint, function, args, timeout_s)

    def attempt_at(self, target: InProcessTransport, endpoint: str, function: Function, args: Any) -> Any:
        """What a function returns at a device, or a `Failure` that says what it raised."""
        try:
            if self.network.member(self.name) is not self:
                raise failure.evicted(target.name)
            return function(target, *(args.open(target) if isinstance(args, Parcel) else args))
        except Undecodable as error:
            return failure.Failure("ClusterError", f"{target.name} could not serve {endpoint!r}: {error}", target.name)
        except BaseException as error:
            return failure.encode(error, target.name, endpoint)

    def handler(self, endpoint: str) -> Handler:
        """The handler of that endpoint.

        Raises:
            ClusterError: nothing is exposed under that name.
        """
        try:
            return self._handlers[endpoint]
        except KeyError:
            raise failure.unknown_endpoint(self.name, endpoint) from None

    def members(self) -> tuple[str, ...]:
        return self.network.members()

    def on_members(self, callback: OnMembers) -> None:
        self.network.on_members(self.name, callback)

    def number_of(self, device: str) -> int | None:
        member = self.network.member(device)
        return None if member is None else member.id

    def draw(self, counter: str, count: int = 1) -> int:
        self._require_life()
        return self.network.draw(counter, count)

    def evict(self, device: str) -> None:
        self._require_life()
        if device == self.name:
            raise UsageError(f"{device} cannot evict itself. Close its transport instead.")
        member = self.network.member(device)
        if member is not None:
            self.network.remove(member, failure.lost(device, "its last calls"))

    def _require_life(self) -> None:
        """What was killed has no way to the door."""
        if self.is_dead:
            raise failure.has_left(self.name)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._own_calls.fail_pending(failure.has_left(self.name))
            self.network.remove(self, failure.lost(self.name, "its last calls"))


class InProcessRemoteObject(RemoteObject):
    """A handle of one device to an object of some device."""

    def __init__(self, holder: InProcessTransport, owner: InProcessTransport, kept: Any) -> None:
        self.device = owner.name
        self.owner = owner
        self._holder = holder
        self._kept = [kept]

    def call(self, method: str, *args: Any, timeout_s: float) -> Future[Any]:
        if not self._kept:
            return failed(failure.released(self.device))
        if self._holder.network.member(self.device) is not self.owner:
            return failed(failure.lost(self.device, method))
        return self._holder.ask(self.owner, method, partial(_run_method, self._kept[0], method), args, timeout_s)

    def release(self) -> None:
        self._kept.clear()

    def held_by(self, device: InProcessTransport) -> InProcessRemoteObject:
        """Another device's handle to the same object.

        Raises:
            ClusterError: this one was released.
        """
        if not self._kept:
            raise failure.released(self.device)
        return InProcessRemoteObject(device, self.owner, self._kept[0])


def _run_handler(endpoint: str, target: InProcessTransport, *args: Any) -> Any:
    return target.handler(endpoint)(*args)


def _run_prompt_handler(endpoint: str, target: InProcessTransport, *args: Any) -> Any:
    answer = target.handler(endpoint)(*args)
    if isinstance(answer, Future):
        raise failure.answers_later(endpoint)
    return answer


def _run_posted(endpoint: str, target: InProcessTransport, *args: Any) -> Any:
    """For another device: what it answers must be small."""
    answer = _run_prompt_handler(endpoint, target, *args)
    try:
        pack_posted(answer)
    except Unsendable as error:
        raise ClusterError(f"{target.name} could not serve {endpoint!r}: {error}") from error
    return answer


def _make_object(endpoint: str, target: InProcessTransport, *args: Any) -> InProcessRemoteObject:
    return InProcessRemoteObject(target, target, target.handler(endpoint)(*args))


def _run_method(kept: Any, method: str, _: InProcessTransport, *args: Any) -> Any:
    if method.startswith("_"):
        raise failure.private_method(method)
    return getattr(kept, method)(*args)
