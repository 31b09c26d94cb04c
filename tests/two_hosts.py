"""Two hosts and their gates in one process: each host has a loopback address of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from shardnet.gate.arrivals import Arrivals
from shardnet.gate.calling import Caller
from shardnet.gate.hub import Hub
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.outpost import Outpost
from shardnet.process.lasting import DOOR, STATUS, TRUST
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.door import Door, serve_door
from shardnet.transport.door.listening import listen_in
from shardnet.transport.door.membership import Membership
from shardnet.transport.door.messages import News
from shardnet.trust.admission import Admission, admission_in
from shardnet.trust.authority import request_for
from shardnet.trust.contexts import server_context
from shardnet.trust.identity import Identity, keep_gates
from shardnet.trust.identity_files import host_key, keep_identity, own_identity

NEAR = "127.0.0.1"


class Hosts:
    """A cluster on the host of its coordinator, which other hosts join.

    Args:
        ends: closes all of it.
    """

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        self.folder = folder
        self.ends = ends
        self.said: list[str] = []
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        ends.callback(self._loop.close)
        ends.callback(thread.join, 10)
        ends.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        self.door: Door = ends.enter_context(serve_door(folder=folder / "up"))
        trust = StateFolder(folder / "up" / "trust")
        ends.callback(trust.close)
        self.admission: Admission = admission_in(trust, time.time())
        listeners = listen(["127.0.0.1:0"])
        self.gates = addresses_of(listeners)
        self.identity: Identity = own_identity(trust, self.admission, self.gates, time.time())
        self.hub: Hub = self.on_loop(self._open, listeners)
        self._num_outposts = 0

    async def _open(self, listeners: list[socket.socket]) -> Hub:
        hub = Hub(self.folder / "up", self.admission.revoked, lambda: self.gates, self.said.append, loopback=NEAR)
        self.arrivals = self._arrivals(listeners, hub)
        self.caller = Caller(lambda: self.identity, lambda: self.gates, hub.out_of_reach, self.admission.counts)
        following = asyncio.ensure_future(hub.follow_door())

        async def close() -> None:
            following.cancel()
            self.arrivals.close()
            self.caller.close()
            hub.close("the test is over")

        self.ends.callback(self.on_loop, close)
        return hub

    def _arrivals(self, listeners: list[socket.socket], hub: Hub) -> Arrivals:
        context = server_context(self.identity)
        return Arrivals(
            listeners,
            lambda: context,
            self.admission.counts,
            hub.let_in,
            lambda transport, peer: transport.abort(),
            self.said.append,
        )

    async def move(self) -> None:
        """The coordinator's gate can be dialled somewhere else from now on, and all connections are gone."""
        self.arrivals.close()
        for session in self.hub._meeting.sessions:
            session.detach("the host has moved")
        listeners = listen(["127.0.0.1:0"])
        self.gates = addresses_of(listeners)
        self.arrivals = self._arrivals(listeners, self.hub)
        self.caller.begin()

    def restart_door(self) -> None:
        """The coordinator is killed, and started again in the same folder."""
        self.door.close()
        self.door = self.ends.enter_context(serve_door(folder=self.folder / "up"))

    def on_loop(self, work: Callable[..., Any], *args: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work(*args), self._loop).result(20)

    def join(self, name: str, *, can_be_dialled: bool = True) -> Host:
        """Another host, linked with the coordinator's."""
        self._num_outposts += 1
        state = StateFolder(self.folder / name)
        self.ends.callback(state.close)
        request = request_for(host_key(state))
        certificate = self.admission.grant(request, name, time.time())
        identity = keep_identity(state, certificate, self.admission.authority.certificate, self.gates)
        return Host(self, identity, state, f"127.0.0.{1 + self._num_outposts}", can_be_dialled)


class Host:
    """One that is not the coordinator's."""

    def __init__(
        self, hosts: Hosts, identity: Identity, state: StateFolder, loopback: str, can_be_dialled: bool
    ) -> None:
        self.identity = identity
        self.can_be_dialled = can_be_dialled
        self.loopback = loopback
        self.said: list[str] = []
        self._state = state
        self.outpost: Outpost = hosts.on_loop(self._open, hosts)

    @property
    def endpoint(self) -> str:
        return f"unix:{self._state.path / DOOR}"

    async def _open(self, hosts: Hosts) -> Outpost:
        listeners = listen(["127.0.0.1:0"]) if self.can_be_dialled else []
        keep = partial(keep_gates, self._state)
        outpost = Outpost(self.identity, listeners, self.said.append, keep, loopback=self.loopback)
        await outpost.serve({name: listen_in(self._state, name).socket for name in (DOOR, STATUS, TRUST)})
        staying = asyncio.ensure_future(outpost.stay_linked())

        async def close() -> None:
            staying.cancel()
            outpost.close()

        hosts.ends.callback(hosts.on_loop, close)
        return outpost


def listener_at(loopback: str) -> socket.socket:
    """At a port that nothing else of this machine has: tests run beside each other, and all hosts here are one."""
    while True:
        listener = socket.create_server((loopback, 0))
        try:
            if loopback != NEAR:
                socket.create_server((NEAR, listener.getsockname()[1])).close()
            return listener
        except OSError:
            listener.close()


class Agent:
    """Stands for the RPC agent of a member: says the name of the member to who connects, and then what it is told."""

    def __init__(self, name: str, loopback: str, ends: ExitStack) -> None:
        self.name = name
        self._listener = ends.enter_context(listener_at(loopback))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(self.name.encode())
            while part := connection.recv(2**16):
                connection.sendall(part)


class Visitor:
    """A member with such an agent, on a host."""

    def __init__(self, name: str, endpoint: str, agent: Agent, ends: ExitStack) -> None:
        self.agent = agent
        self.names: dict[int, str] = {}
        self.struck = threading.Event()
        self.membership = Membership(endpoint, timeout_s=20, look_again_s=60)
        ends.callback(self.membership.close)
        self.id = self.membership.enter()
        self.door: list[str] = []
        """What became of it."""
        where = f"uv://127.0.0.1:{agent.port}"
        self.membership.enlist(name, where, self._hear, self.struck.set, self.door.append)

    def _hear(self, news: News) -> None:
        for member_id in news.left:
            self.names.pop(member_id, None)
        self.names.update({member_id: name for member_id, name, _, _ in news.joined})


def greeted_at(host: str, port: int) -> str:
    """The name of the agent that is reached there, if it also answers; empty where nobody is."""
    try:
        with socket.create_connection((host, port), 20) as connection:
            name = connection.recv(100).decode()
            connection.sendall(b"echo")
            return name if connection.recv(100) == b"echo" else ""
    except OSError:
        return ""
