"""The one seam between shardnet and a network.

A device exposes *endpoints* (a name and a handler) and calls those of other devices. Two ways to do it stand behind
this interface: `rpc` (torch.distributed.rpc, between processes) and `in_process` (threads of one process, for tests).

What may travel: None, bool, int (128 bits), float, str, bytes, tuple, list, dict (keys: str or int), torch tensors,
remote objects, and the NamedTuples and records that `messages.py` and `source_messages.py` list, whose fields must be
of the types that their annotations say (an int there has 64 bits). Nothing is unpickled. What may not travel is a
`UsageError` where it is sent.

A handler must return at once: it runs on the threads that also complete answers. What takes longer returns a
`concurrent.futures.Future`, whose result then becomes the answer. Callbacks of futures run on those threads, too.

Tensors arrive as copies, on the CPU, detached, contiguous, with no more storage than they show. Until the future is
done, do not write into what was sent. Messages to one device may overtake each other. What a device asks of itself
runs in the calling thread before the call returns, and nothing is copied: hold no lock that the handler takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shardnet.transport.timers import Timer

Handler = Callable[..., Any]
OnMembers = Callable[[tuple[str, ...], tuple[str, ...]], object]
"""Told who has joined and who has left, by name; one that left and came back is in both."""


class RemoteObject(ABC):
    """A handle to an object that lives on some device (an RRef where the transport is RPC).

    It may be sent to other devices as an argument, which then hold the object, too.
    """

    device: str

    @abstractmethod
    def call(self, method: str, *args: Any, timeout_s: float) -> Future[Any]:
        """Call a public method of the object where it lives. Errors as in `Transport.call`."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the object. Safe to call twice, and when its device is gone."""


class Transport(ABC):
    """How this device reaches the others. A context manager: leaving it leaves the cluster."""

    name: str
    """The name of this device in the cluster, unique among its members."""

    @abstractmethod
    def expose(self, endpoint: str, handler: Handler) -> None:
        """Let other devices call `handler` under the name `endpoint`."""

    @abstractmethod
    def post(self, device: str, endpoint: str, *args: Any, timeout_s: float = 30.0) -> Future[Any]:
        """The fast way for small, frequent messages: the handler must not return a Future. Else like `call`.

        What it returns to another device has at most 1 MiB, no tensor of more than 128 KiB, and no handle. Where the
        connection breaks, the handler may be asked twice.
        """

    @abstractmethod
    def call(self, device: str, endpoint: str, *args: Any, timeout_s: float) -> Future[Any]:
        """Call an endpoint of a device (this one included).

        The future's error is a `ShardnetError` of the handler's (same class, same message), `DeviceLost` where the
        connection is gone, or `CallTimeout` after `timeout_s`.
        """

    @abstractmethod
    def remote(self, device: str, endpoint: str, *args: Any, timeout_s: float = 30.0) -> RemoteObject:
        """Call an endpoint that makes an object, leave the object there, and return a handle to it.

        Waits for the device, so do not use it in a handler. Raises what the future of `call` would.
        """

    @abstractmethod
    def members(self) -> tuple[str, ...]:
        """The devices that are in the group now, this one included, sorted by name."""

    @abstractmethod
    def on_members(self, callback: OnMembers) -> None:
        """Have every later change of `members` told, in order, on a thread that must not wait."""

    @abstractmethod
    def number_of(self, device: str) -> int | None:
        """A number of this member's own: whoever has its name later has another one. None where no member has it."""

    @abstractmethod
    def draw(self, counter: str, count: int = 1) -> int:
        """The first of `count` consecutive numbers, from 1 up, that nobody in this group's life gets again.

        Waits for whoever keeps the group's numbers, so do not use it in a handler.

        Raises:
            ClusterError: it does not answer.
        """

    @abstractmethod
    def after(self, delay_s: float, function: Callable[[], object]) -> Timer:
        """Run a function later, on a thread that must not wait; never, where this device has left by then."""

    @abstractmethod
    def evict(self, device: str) -> None:
        """Strike a lost device off this device's list and the group's roster. Living members are undisturbed."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group at once. Never waits for the dead. Safe to call twice. Not for handlers."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
