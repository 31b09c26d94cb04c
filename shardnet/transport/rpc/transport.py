"""The transport between processes: torch.distributed.rpc, in an elastic group.

What another process can make this one run stands in `entry.py` and `objects.py`, and is nothing else in Python.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import ClusterError, PortTaken, ShardnetError, UsageError
from shardnet.process.forks import Birthplace
from shardnet.process.threads import Errands, on_thread
from shardnet.transport.base import Handler, OnMembers, RemoteObject, Transport
from shardnet.transport.door.membership import DoorEvent, OnDoor
from shardnet.transport.door.messages import News
from shardnet.transport.failure import has_left, lost, not_a_member, struck_off
from shardnet.transport.names import require_name
from shardnet.transport.outcomes import failed, pass_on
from shardnet.transport.own_calls import OwnCalls
from shardnet.transport.rpc import farewell, presence
from shardnet.transport.rpc import frames as rpc_frames
from shardnet.transport.rpc.answers import Peer, send
from shardnet.transport.rpc.edges import Edges
from shardnet.transport.rpc.elastic import Group
from shardnet.transport.rpc.entry import run_handler, run_prompt_handler
from shardnet.transport.rpc.objects import LocalObjects, make_remote
from shardnet.transport.rpc.presence import attempt
from shardnet.transport.rpc.replies import Unfetched
from shardnet.transport.timers import Timer, Timers
from shardnet.transport.wire.frames import Call, Post

EDGE_S = 2.0
"""How long a peer may take to say where an edge to it begins."""
EDGE_AGAIN_S = 5.0
"""After which one that had none is asked again."""
FAREWELL_S = 2.0
"""How long an answer of one that has left is waited for."""
CHORES_S = 1.0
"""How long the callbacks of answers that failed may take at the end."""
MOST_PORTS = 5
"""So many agents are tried one after the other, where something else has their port on another host."""
NOBODY = 0
"""No member has this id."""
_EDGE = "members/edge"
Prepare = Callable[["RpcTransport"], None]


class RpcTransport(Transport):
    """This process's place in a cluster. There is one per process at a time: torch has one agent."""

    def __init__(self, name: str, group: Group) -> None:
        """Use `RpcTransport.join` instead."""
        self.name = name
        self.id = group.id
        self.group = group
        self.birthplace = Birthplace("the cluster")
        self.gone: set[int] = set()
        """Ids that left or were evicted. What they still send is refused."""
        self._peers: dict[str, Peer] = {}
        self._left: set[str] = set()
        self.struck_off = threading.Event()
        """Set when the others have struck this device off: all that it asks for is `Evicted`. It may join again."""
        self._on_struck: list[Callable[[], object]] = []
        self._on_members: list[OnMembers] = []
        self._on_door: list[OnDoor] = []
        self._last_of_door: DoorEvent = "back"
        self._lock = threading.Lock()
        self._closed = False
        self._timers = Timers()
        self.objects = LocalObjects(self._timers)
        self.own_calls = OwnCalls(name, self._timers)
        self.unfetched = Unfetched(self._timers)
        self._edges = Edges(self._serve_edge, self._timers)
        self.handlers: dict[str, Handler] = {}
        self.own_endpoints: dict[str, Handler] = {
            _EDGE: self._place_for,
            farewell.ENDPOINT: lambda sender: None,
            **self.objects.endpoints(),
        }
        """What this transport serves itself. Each is given first who asks."""
        # Whoever waits for a member that is gone has callbacks, and the thread that hears the news may not wait.
        self._chores = Errands("shardnet-members")
        self._ends = self._in_order_of_closing()

    @classmethod
    def join(
        cls,
        endpoint: str,
        name: str,
        *,
        timeout_s: float = 30.0,
        look_again_s: float = 0.0,
        prepare: Prepare = lambda here: None,
    ) -> RpcTransport:
        """Join the cluster whose door is at `endpoint`. All members that are not silent know of it then.

        Args:
            endpoint: of the door that the coordinator serves: "unix:PATH" or "host:port".
            name: the device's name, unique among the members.
            timeout_s: how long to wait for the door to be opened.
            look_again_s: how long to look for a door that is gone later, each time. Meanwhile, and for good where it is
                not found, members go on among themselves. Found again, it tells all that has changed.
            prepare: called before the others learn of this device: the place to expose what they will ask for.

        Raises:
            JoinFailed: no door there that lets this process in, or a member has that name.
            UsageError: an impossible name or endpoint, or this process is in a cluster already.
        """
        require_name(name)
        rpc_frames.install()
        presence.check_birthplace()
        make_group = partial(Group, endpoint, timeout_s=timeout_s, look_again_s=look_again_s)
        for _ in range(MOST_PORTS - 1):
            with contextlib.suppress(PortTaken):  # another agent gets another port
                return cls._join_once(name, make_group, prepare)
        return cls._join_once(name, make_group, prepare)

    @classmethod
    def _join_once(cls, name: str, make_group: Callable[[], Group], prepare: Prepare) -> RpcTransport:
        with contextlib.ExitStack() as ends:
            group = make_group()
            ends.callback(group.close)
            here = cls(name, group)
            ends.callback(here._shut)
            presence.enter(here)
            prepare(here)
            here.group.enlist(name, here._on_news, here._be_struck_off, here._hear_of_door)
            ends.pop_all()
        atexit.register(here.close)
        return here

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
        peer = self._peers.get(device)
        if peer is not None:
            return self._ask_peer(peer, endpoint, request, timeout_s)
        answer: Future[Any] = Future()
        try:  # elsewhere: the door may be silent for seconds, and this thread may be what timers or lines run on
            found = on_thread("shardnet-look-up", partial(self._look_up, device))
        except RuntimeError as error:
            return failed(ClusterError(f"{device} cannot be looked up: {error}."))
        found.add_done_callback(partial(self._ask_found, answer, endpoint, request, timeout_s))
        return answer

    def _ask_found(
        self, answer: Future[Any], endpoint: str, request: Any, timeout_s: float, found: Future[Peer]
    ) -> None:
        is_found = found.exception() is None
        asked = self._ask_peer(found.result(), endpoint, request, timeout_s) if is_found else found
        asked.add_done_callback(partial(pass_on, answer))

    def _ask_peer(self, peer: Peer, endpoint: str, request: Any, timeout_s: float) -> Future[Any]:
        try:
            worker = peer.worker
            if worker is None:
                worker = peer.worker = self.group.worker(peer.id)
            return send(peer, worker, endpoint, request, timeout_s)
        except ShardnetError as error:
            return failed(error)

    def peer(self, device: str) -> Peer:
        """Another member.

        Raises:
            DeviceLost: there is no such member.
            Evicted: this device is no member any more.
            ClusterError: it has left, or the door does not answer.
        """
        peer = self._peers.get(device)
        return self._look_up(device) if peer is None else peer

    def _look_up(self, device: str) -> Peer:
        """Find a member whose joining this device has not heard of yet."""
        if self._closed:
            raise has_left(self.name)
        if device != self.name and not self.struck_off.is_set():
            self._catch_up(device)
        if self.struck_off.is_set():
            raise struck_off(self.name)
        peer = self._peers.get(device)
        if peer is None:
            raise not_a_member(device)
        return peer

    def _catch_up(self, device: str) -> None:
        """Hear the news that there are. Of a device that is known to have left, none are needed."""
        try:
            self.group.door.sync()
        except ClusterError:
            if device not in self._left and not self.struck_off.is_set():
                raise

    def _ask_for_edge(self, peer: Peer) -> None:
        """Where there is none: what is posted until there is one goes through RPC."""
        now_s = time.monotonic()
        with self._lock:
            has_edge = peer.edge is not None and not peer.edge.is_over
            if has_edge or now_s < peer.edge_after_s:
                return
            peer.edge_after_s = now_s + EDGE_AGAIN_S
        asked = self._ask_peer(peer, _EDGE, Post(self.id, _EDGE, ()), EDGE_S)
        asked.add_done_callback(partial(self._open_edge, peer))

    def _open_edge(self, peer: Peer, told: Future[Any]) -> None:
        if told.exception() is not None:
            return
        if told.result() is None:  # there are no such sockets
            peer.edge_after_s = math.inf
            return
        edge = self._edges.connect(peer.name, told.result(), partial(self._ask_peer, peer))
        peer.edge = edge
        if edge is not None and self._is_gone(peer):  # only now: whoever ends its edge has found none, perhaps
            edge.end(partial(lost, peer.name))

    def _is_gone(self, peer: Peer) -> bool:
        return peer.id in self.gone or self.struck_off.is_set() or self._closed

    def _place_for(self, sender: int) -> Any:
        """Where an edge of the device that asks begins."""
        if sender not in {peer.id for peer in list(self._peers.values())}:
            raise ClusterError(f"{self.name} has not heard yet of device number {sender}.")
        return self._edges.place_for(sender)

    def _serve_edge(self, request: Post) -> Any:
        return attempt(request.endpoint, run_prompt_handler, *request)

    def members(self) -> tuple[str, ...]:
        return tuple(sorted({*self._peers, self.name}))

    def on_members(self, callback: OnMembers) -> None:
        self._on_members.append(callback)

    def number_of(self, device: str) -> int | None:
        if device == self.name:
            return self.id
        peer = self._peers.get(device)
        return None if peer is None else peer.id

    def draw(self, counter: str, count: int = 1) -> int:
        return self.group.door.draw(counter, count)

    def on_struck_off(self, callback: Callable[[], object]) -> None:
        """Call back, at once where it has happened already, when the others strike this device off."""
        self._on_struck.append(callback)
        if self.struck_off.is_set():
            callback()

    def on_door(self, callback: OnDoor) -> None:
        """Have told what becomes of the door, in order, on a thread that must not wait; at once where it is gone now.

        A door that knows this device no more, as it was struck off or another cluster is there now, counts as if the
        others had struck it off.
        """
        with self._lock:
            self._on_door.append(callback)
            if self._last_of_door != "back":
                self._chores.do(partial(callback, self._last_of_door))

    def after(self, delay_s: float, function: Callable[[], object]) -> Timer:
        return self._timers.after(delay_s, function)

    def evict(self, device: str) -> None:
        if device == self.name:
            raise UsageError(f"{device} cannot evict itself. Close its transport instead.")
        if device not in self._peers:
            self.group.door.sync()
        peer = self._peers.get(device)
        if peer is None:  # off the roster already: return when the others know, too
            self.group.door.strike(NOBODY)
            return
        self._part(peer)
        self._chores.do(partial(peer.fail_pending, partial(lost, device)))
        self.group.door.strike(peer.id)

    def close(self) -> None:
        if not self.birthplace.is_here:  # at the exit of a forked child, whose parent goes on
            return
        with self._lock:
            was_closed, self._closed = self._closed, True
        try:
            if not was_closed:
                atexit.unregister(self.close)
                with contextlib.suppress(ClusterError):
                    self.group.door.leave()
        finally:  # also after Ctrl-C: a process has one agent, and could never join again
            self._shut()

    def _shut(self) -> None:
        self._closed = True
        self._ends.close()

    def _in_order_of_closing(self) -> contextlib.ExitStack:
        """What is done at the end: each once, however often it is asked for, and whatever the one before has raised."""
        ends = contextlib.ExitStack()
        error = has_left(self.name)
        for end in reversed(
            (
                self.objects.release_all,
                partial(presence.leave, self),
                partial(self._edges.close, error),
                self._timers.close,
                partial(self._chores.end, CHORES_S),
                partial(self.own_calls.fail_pending, error),
                self._leave_peers,
                self.group.close,
            )
        ):
            ends.callback(end)
        return ends

    def _leave_peers(self) -> None:
        for peer in list(self._peers.values()):
            peer.fail_pending(lambda endpoint: has_left(self.name))
        self._peers.clear()

    def _on_news(self, news: News) -> None:
        """Make of the members known here those that the door has told of. Runs on the thread that hears it."""
        with self._lock:
            known = {peer.id: peer for peer in self._peers.values()}
        parted = [known[agent_id] for agent_id in news.left if agent_id in known]
        for peer in parted:
            self._part(peer)
            self._chores.do(partial(peer.fail_pending, partial(lost, peer.name)))
        with self._lock:
            self.gone.update(news.left)
            joined = [each for each in news.joined if each[0] != self.id and each[0] not in self.gone]
            for agent_id, name, _, _ in joined:
                self._peers[name] = Peer(name, agent_id)
                self._left.discard(name)
            self._tell_of([name for _, name, _, _ in joined], [])

    def _tell_of(self, joined: Sequence[str], left: Sequence[str]) -> None:
        """Called with the lock held, so that changes are told in their order."""
        for callback in self._on_members if joined or left else ():
            self._chores.do(partial(callback, tuple(joined), tuple(left)))

    def _hear_of_door(self, event: DoorEvent) -> None:
        with self._lock:
            self._last_of_door = event
            for callback in self._on_door:
                self._chores.do(partial(callback, event))

    def _part(self, peer: Peer) -> None:
        """A member is there no more: what it still sends is refused."""
        with self._lock:
            self.gone.add(peer.id)
            if self._peers.get(peer.name) is peer:
                del self._peers[peer.name]
                self._left.add(peer.name)
                self._tell_of([], [peer.name])
        self.objects.forget_unclaimed_of(peer.id)
        self._edges.drop(peer.id)
        if peer.worker is not None:  # it was asked something
            request = Post(self.id, farewell.ENDPOINT, ())
            ask = partial(self._ask_peer, peer, farewell.ENDPOINT, request, FAREWELL_S)
            farewell.bid_farewell(ask, self._timers)

    def _be_struck_off(self) -> None:
        """The others have struck this device off. Runs on the thread that hears it."""
        with self._lock:
            self.struck_off.set()
            peers = list(self._peers.values())
            self._peers.clear()
            self._tell_of([], [peer.name for peer in peers])
        for peer in peers:
            self._chores.do(partial(peer.fail_pending, lambda endpoint: struck_off(self.name)))
        for callback in list(self._on_struck):
            self._chores.do(callback)
