"""The transport between processes: torch.distributed.rpc, in an elastic group.

What another process can make this one run stands in `entry.py` and `objects.py`, and is nothing else in Python.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from shardnet.errors import CallTimeout, ClusterError, JoinFailed, ShardnetError, UsageError
from shardnet.process.forks import Birthplace
from shardnet.transport.base import Handler, OnChange, RemoteObject, Transport
from shardnet.transport.failure import has_left, lost, not_a_member
from shardnet.transport.outcomes import OwnCalls, failed
from shardnet.transport.rpc import frames as rpc_frames
from shardnet.transport.rpc import presence
from shardnet.transport.rpc.answers import Peer, send
from shardnet.transport.rpc.edges import Edges
from shardnet.transport.rpc.elastic import Group
from shardnet.transport.rpc.entry import run_handler, run_prompt_handler
from shardnet.transport.rpc.objects import LocalObjects, make_remote
from shardnet.transport.rpc.presence import attempt
from shardnet.transport.rpc.replies import Unfetched
from shardnet.transport.timers import Timers
from shardnet.transport.wire.frames import Call, Post

NOTICE_S = 2.0
"""How long a join or an eviction waits for members that do not answer the news of it."""
GOODBYE_S = 0.5
"""The same for a device that leaves."""

_PING, _JOINED, _LEFT, _EDGE = "members/ping", "members/joined", "members/left", "members/edge"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")
_log = logging.getLogger(__name__)


class RpcTransport(Transport):
    """This process's place in a cluster. There is one per process at a time: torch has one agent."""

    unanswered: tuple[str, ...] = ()
    """Members that did not answer the last news (a join, an eviction): dead or frozen, the caller decides."""

    def __init__(self, name: str, group: Group) -> None:
        """Use `RpcTransport.join` instead."""
        self.name = name
        self.id = group.id
        self.group = group
        self.birthplace = Birthplace("this transport")
        self.objects = LocalObjects()
        self.handlers: dict[str, Handler] = {
            _PING: lambda: None,
            _JOINED: self._on_joined,
            _LEFT: self._on_left,
            _EDGE: self._place_for_edge,
            **self.objects.endpoints(),
        }
        self.gone: set[int] = set()
        """Ids that left or were evicted. What they still send is refused."""
        self._peers: dict[str, Peer] = {}
        self._left: set[str] = set()
        self._on_change: list[OnChange] = []
        self._lock = threading.Lock()
        self._closed = False
        self._timers = Timers()
        self.own_calls = OwnCalls(name, self._timers)
        self.unfetched = Unfetched(self._timers)
        self._edges = Edges(self._serve_edge, self._timers)
        # Connecting to a newcomer and the callbacks of users may wait; the threads of RPC may not.
        self._chores = ThreadPoolExecutor(1, thread_name_prefix="shardnet-members")

    @classmethod
    def join(
        cls,
        endpoint: str,
        name: str,
        *,
        timeout_s: float = 30.0,
        prepare: Callable[[RpcTransport], None] = lambda here: None,
    ) -> RpcTransport:
        """Join the cluster whose store is at `endpoint`, and tell its members.

        Members that are dead or frozen cannot hinder it: they get `NOTICE_S` in parallel, see `unanswered`.

        Args:
            endpoint: "host:port" of the store that the coordinator serves.
            name: the device's name, unique among the members. That of a dead member may be taken over.
            timeout_s: how long to wait for the store to appear.
            prepare: called before the others learn of this device: the place to expose what they will ask for.

        Raises:
            JoinFailed: no store there, or a living member has that name.
            UsageError: an impossible name or endpoint, or this process is in a cluster already.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"A device is called by 1 to 64 letters, digits and .:@_-, but this one is {name!r}.")
        rpc_frames.install()
        presence.check_birthplace()
        here = cls(name, Group(endpoint, timeout_s=timeout_s))
        try:
            presence.enter(here)
            prepare(here)
            here._take_place()
        except BaseException:
            here._shut()
            raise
        atexit.register(here.close)
        return here

    def _take_place(self) -> None:
        while (roster := self.group.enlist(self.name))[self.name] != self.id:
            self._challenge(Peer(self.name, roster[self.name]))
        with self._lock:
            for name, agent_id in roster.items():
                if name != self.name:
                    self._peers.setdefault(name, Peer(name, agent_id))
            peers = list(self._peers.values())
        self.unanswered = self._tell(peers, NOTICE_S, _JOINED, self.name, self.id)

    def _challenge(self, holder: Peer) -> None:
        """Strike the holder of this device's name off the roster, if it is dead."""
        try:
            self._notify(holder, _PING).result()
        except CallTimeout as error:
            raise JoinFailed(
                f"A device called {holder.name} is in the cluster and does not answer. "
                "Wait until it is evicted, or choose another name."
            ) from error
        except ClusterError:
            self.group.strike(holder.name, holder.id)
            return
        raise JoinFailed(f"A device called {holder.name} is in the cluster already. Choose another name.")

    def expose(self, endpoint: str, handler: Handler) -> None:
        self.handlers[endpoint] = handler

    def post(self, device: str, endpoint: str, *args: Any, timeout_s: float = 30.0) -> Future[Any]:
        if device == self.name:
            outcome = attempt(endpoint, run_prompt_handler, self.id, endpoint, args)
            return self.own_calls.settle(outcome, endpoint, timeout_s)
        request, peer = Post(self.id, endpoint, args), self._peers.get(device)
        if peer is not None:
            if peer.edge is not None and (answer := peer.edge.post(endpoint, request, timeout_s)) is not None:
                return answer
            self._ask_for_edge(peer)
        return self.ask(device, endpoint, request, timeout_s)

    def call(self, device: str, endpoint: str, *args: Any, timeout_s: float) -> Future[Any]:
        if device == self.name:
            outcome = attempt(endpoint, run_handler, self.id, endpoint, args)
            return self.own_calls.settle(outcome, endpoint, timeout_s)
        return self.ask(device, endpoint, Call(self.id, endpoint, args), timeout_s)

    def remote(self, device: str, endpoint: str, *args: Any, timeout_s: float = 30.0) -> RemoteObject:
        return make_remote(self, device, endpoint, args, timeout_s)

    def ask(self, device: str, endpoint: str, request: Any, timeout_s: float) -> Future[Any]:
        """Send one of the requests of `wire` to another device."""
        try:
            return self._send(self.peer(device), endpoint, request, timeout_s)
        except ShardnetError as error:
            return failed(error)

    def peer(self, device: str) -> Peer:
        """Another member.

        Raises:
            DeviceLost: there is no such member.
            ClusterError: this device has left, or the store does not answer.
        """
        peer = self._peers.get(device)
        return self._look_up(device) if peer is None else peer

    def _look_up(self, device: str) -> Peer:
        """Find a member whose joining this device did not hear of."""
        if self._closed:
            raise has_left(self.name)
        agent_id = None if device in self._left or device == self.name else self.group.roster().get(device)
        if agent_id is None:
            raise not_a_member(device)
        self._on_joined(device, agent_id)
        peer = self._peers.get(device)
        if peer is None:  # it has left, and the store does not know yet
            raise not_a_member(device)
        return peer

    def _send(self, peer: Peer, endpoint: str, request: Any, timeout_s: float) -> Future[Any]:
        worker = peer.worker
        if worker is None:
            worker = peer.worker = self.group.worker(peer.id)
        return send(peer, worker, endpoint, request, timeout_s)

    def _ask_for_edge(self, peer: Peer) -> None:
        """Once: what is posted until there is an edge goes through RPC."""
        if not peer.has_asked_for_edge:
            peer.has_asked_for_edge = True
            self._notify(peer, _EDGE, self.id).add_done_callback(partial(self._open_edge, peer))

    def _place_for_edge(self, agent_id: int) -> tuple[str, bytes] | None:
        return self._edges.place_for(agent_id)

    def _open_edge(self, peer: Peer, told: Future[Any]) -> None:
        if told.exception() is None and told.result() is not None and peer.id not in self.gone:
            peer.edge = self._edges.connect(peer.name, *told.result())

    def _serve_edge(self, request: Post) -> Any:
        return attempt(request.endpoint, run_prompt_handler, *request)

    def _notify(self, peer: Peer, endpoint: str, *args: Any) -> Future[Any]:
        try:
            return self._send(peer, endpoint, Post(self.id, endpoint, args), NOTICE_S)
        except ShardnetError as error:
            return failed(error)

    def _tell(self, peers: Iterable[Peer], wait_s: float, endpoint: str, *args: Any) -> tuple[str, ...]:
        """Post news to all at once, and return who has not confirmed it in time."""
        answers = {peer.name: self._notify(peer, endpoint, *args) for peer in peers}
        concurrent.futures.wait(answers.values(), timeout=wait_s)
        return tuple(name for name, answer in answers.items() if not answer.done() or answer.exception())

    def members(self) -> tuple[str, ...]:
        return tuple(sorted({*self._peers, self.name}))

    def draw(self, counter: str, count: int = 1) -> int:
        return self.group.draw(counter, count)

    def on_change(self, callback: OnChange) -> None:
        self._on_change.append(callback)

    def evict(self, device: str) -> None:
        if device == self.name:
            raise UsageError(f"{device} cannot evict itself. Close its transport instead.")
        peer = self._peers.get(device)
        agent_id = peer.id if peer is not None else self.group.roster().get(device)
        if agent_id is None:
            return
        self._on_left(device, agent_id)
        try:
            self.group.strike(device, agent_id)
        finally:
            self.unanswered = self._tell(list(self._peers.values()), NOTICE_S, _LEFT, device, agent_id)

    def close(self) -> None:
        if not self.birthplace.is_here:  # at the exit of a forked child, whose parent goes on
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        try:
            with contextlib.suppress(ClusterError):
                self.group.strike(self.name, self.id, timeout_s=GOODBYE_S)
            self._tell(list(self._peers.values()), GOODBYE_S, _LEFT, self.name, self.id)
        finally:  # also after Ctrl-C: nobody can close this twice, and a process has one agent
            self._shut()

    def _shut(self) -> None:
        self._closed = True
        self.objects.release_all()
        presence.leave(self)
        self._edges.close(has_left(self.name))
        self._timers.close()
        self._chores.shutdown(wait=False, cancel_futures=True)
        self.own_calls.fail_pending(has_left(self.name))
        for peer in self._peers.values():
            peer.fail_pending(has_left(self.name))
        self._peers.clear()
        self.group.close()

    def _on_joined(self, name: str, agent_id: int) -> None:
        with self._lock:
            old = self._peers.get(name)
            if agent_id in self.gone or (old is not None and old.id >= agent_id):
                return
            peer = self._peers[name] = Peer(name, agent_id)
            self._left.discard(name)
            if old is not None:
                self.gone.add(old.id)
        if old is not None:
            self.objects.forget_unclaimed_of(old.id)
            self._edges.drop(old.id)
            old.fail_pending(lost(name, "its last calls"))
        self._later(self._connect, peer)
        self._announce((name,), () if old is None else (name,))

    def _on_left(self, name: str, agent_id: int) -> None:
        with self._lock:
            self.gone.add(agent_id)
            peer = self._peers.get(name)
            if peer is None or peer.id != agent_id:
                return
            del self._peers[name]
            self._left.add(name)
        self.objects.forget_unclaimed_of(agent_id)
        self._edges.drop(agent_id)
        peer.fail_pending(lost(name, "its last calls"))
        self._announce((), (name,))

    def _connect(self, peer: Peer) -> None:
        """Learn a newcomer's address while the store is there, so that the first message need not ask."""
        with contextlib.suppress(ClusterError):
            peer.worker = self.group.worker(peer.id)

    def _announce(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        for callback in list(self._on_change):
            self._later(self._run_callback, callback, joined, left)

    def _run_callback(self, callback: OnChange, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        try:
            callback(joined, left)
        except Exception as error:
            _log.error("%s: a membership callback failed: %s: %s", self.name, type(error).__name__, error)

    def _later(self, function: Any, *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._chores.submit(function, *args)
