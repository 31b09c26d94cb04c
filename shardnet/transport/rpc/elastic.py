"""An elastic group of torch RPC agents: devices come, leave and die, and the others are not disturbed.

A backend of our own ("SHARDNET_ELASTIC") on the stock `TensorPipeAgent`. The stock groups do not do: the static one
cannot shrink, and the dynamic one calls *every* known member on a join, so that one dead member blocks all later ones.
What is different here:

- The roster (name, id, address) is kept by the door. The store in which an agent publishes its address, and looks up
  those of others, is one of this process alone, into which they are put by hand: no C++ code waits on the network.
- An agent is called after its id ("member7") and ids are never reused, so a device that comes back under its old name
  is a stranger to torch: nothing is ever taken out of an agent's tables. Taking out would race with the calls of other
  threads (`updateGroupMembership` erases without its lock), and made the C++ side throw when an RRef of an erased
  member was collected. It also keeps names with a "-" apart from torch's "name-id," lists.
- An agent starts with an empty list of members, and is told of a peer when it first needs it.

Uses private names of torch.distributed.rpc: tests/integration/test_elastic_rpc.py says whether a torch has them.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.autograd as dist_autograd
from torch.distributed import rpc
from torch.distributed.rpc import api, backend_registry

from shardnet.errors import ClusterError, UsageError
from shardnet.transport.door.listening import require_way_to
from shardnet.transport.door.membership import Membership, OnDoor
from shardnet.transport.door.messages import News

BACKEND = "SHARDNET_ELASTIC"
_num_agents = itertools.count()


class Group:
    """This process's agent in a cluster, and its connection to the door."""

    def __init__(self, endpoint: str, *, timeout_s: float, look_again_s: float) -> None:
        """Start an agent. It belongs to the group for others only after `enlist`. The door is looked for as
        `Membership` says.

        Raises:
            UsageError: the endpoint is none, or this process is in a cluster already.
            JoinFailed: no door is there in time, or it is not open to this process.
        """
        if rpc._is_current_rpc_agent_set():
            raise UsageError("This process is in a cluster already, and holds one at a time. Close that cluster first.")
        _silence_torch()
        _listen_on_loopback_by_default()
        self._addresses: dict[int, str] = {}
        """Of all members that were ever told of."""
        self._known: dict[int, rpc.WorkerInfo] = {}
        self._introducing = threading.Lock()
        self._store = dist.HashStore()
        self.door = Membership(endpoint, timeout_s=timeout_s, look_again_s=look_again_s)
        try:
            self.id = self.door.enter()
            self._agent = _start_agent(self._store, self.id)
        except BaseException:
            self.close()
            raise
        self.is_first = next(_num_agents) == 0
        """Whether this is the first agent of the process: torch counts RRefs for no other."""

    def enlist(
        self, name: str, on_news: Callable[[News], None], on_struck: Callable[[], None], on_door: OnDoor
    ) -> None:
        """Put this agent on the roster; see `Membership.enlist`."""

        def note(news: News) -> None:
            self._addresses.update((agent_id, address) for agent_id, _, address, _ in news.joined)
            on_news(news)

        address = self._store.get(f"addrs/{_agent_name(self.id)}").decode()  # where the agent has just put it
        self.door.enlist(name, address, note, on_struck, on_door)

    def worker(self, agent_id: int) -> rpc.WorkerInfo:
        """Where torch sends what is meant for an agent. Asks the door where the news may be late.

        Raises:
            ClusterError: there is no such agent, or the door does not answer.
        """
        known = self._known.get(agent_id)
        return self._introduce(agent_id) if known is None else known

    def _introduce(self, agent_id: int) -> rpc.WorkerInfo:
        """Let the agent know another one."""
        if agent_id not in self._addresses:
            self.door.sync()
        address = self._addresses.get(agent_id)
        if address is None:  # the agent would wait for it, and keep all other threads from sending meanwhile
            raise ClusterError(f"Device number {agent_id} is not in the cluster.")
        name = _agent_name(agent_id)
        with self._introducing:
            if agent_id not in self._known:
                worker = rpc.WorkerInfo(name, agent_id)
                if agent_id != self.id:
                    self._store.set(f"addrs/{name}", address)
                    self._agent._update_group_membership(worker, [], {}, True)
                self._known[agent_id] = worker
        return self._known[agent_id]

    def close(self) -> None:
        """End the agent. Waits for nobody else."""
        try:
            self.door.close()
        finally:
            if rpc._is_current_rpc_agent_set():
                api.shutdown(graceful=False)


def _start_agent(store: dist.Store, agent_id: int) -> Any:
    """Make and start this process's agent through the backend registry, with no other member known to it."""
    _init_autograd_once(agent_id)
    options = backend_registry.construct_rpc_backend_options(backend_registry.BackendType[BACKEND])
    return backend_registry.init_backend(
        backend_registry.BackendType[BACKEND],
        store=store,
        name=_agent_name(agent_id),
        rank=agent_id,
        world_size=None,
        rpc_backend_options=options,
    )


def _make_options(rpc_timeout: float, init_method: str, **_: Any) -> rpc.TensorPipeRpcBackendOptions:
    """Few threads, plain TCP: a phone has no InfiniBand, and 39 threads are a lot for it."""
    return rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=4,
        rpc_timeout=rpc_timeout,
        init_method=init_method,
        _transports=["uv"],
        _channels=["basic"],
    )


def _make_agent(store: dist.Store, name: str, rank: int, world_size: int | None, rpc_backend_options: Any) -> Any:
    """The backend's constructor: a TensorPipeAgent in a group that is, for torch, just beginning."""
    agent = rpc.TensorPipeAgent(store, name, rank, world_size, rpc_backend_options, {}, [])
    # The agent has just put itself on torch's own list. Whoever reads an entry there waits for that agent's address,
    # for ever if it died before it had one. Nobody needs the list: the door keeps the roster.
    store.set("names/_ALL_WORKER_INFOS", "")
    api._init_rpc_states(agent)
    return agent


if not backend_registry.backend_registered(BACKEND):
    backend_registry.register_backend(BACKEND, _make_options, _make_agent)


def _agent_name(agent_id: int) -> str:
    return f"member{agent_id}"


def _init_autograd_once(agent_id: int) -> None:
    """Sending anything needs distributed autograd's container, which keeps its first id for the process's life."""
    try:
        dist_autograd._init(agent_id)
    except RuntimeError as error:
        if "already initialized" not in str(error):
            raise


def _listen_on_loopback_by_default() -> None:
    """Agents listen where TP_SOCKET_IFNAME says. torch reads it once per process, when the first agent starts.

    Raises:
        UsageError: the loopback is down.
    """
    try:
        interfaces = [name for _, name in socket.if_nameindex()]
    except OSError:  # Android lets no program list them; torch then falls back to 127.0.0.1
        interfaces = []
    default = next((name for name in interfaces if name.startswith("lo")), "lo")
    if os.environ.setdefault("TP_SOCKET_IFNAME", default).startswith("lo"):
        require_way_to(socket.AF_INET, ("127.0.0.1", 1))  # or torch ends the process from a thread of its own


def _silence_torch() -> None:
    """Keep the C++ side from printing warnings and stacks about devices that died: users get one sentence from us.

    torch reads TORCH_CPP_LOG_LEVEL when it is imported, which was long ago, so the flag that it fills is set instead.
    Whoever wants to see more sets that variable.
    """
    levels = ("INFO", "WARNING", "ERROR", "FATAL")
    level = os.environ.get("TORCH_CPP_LOG_LEVEL", "FATAL").upper()
    library = {"darwin": "libc10.dylib", "win32": "c10.dll"}.get(sys.platform, "libc10.so")
    try:
        c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / library))
        ctypes.c_int.in_dll(c10, "FLAGS_caffe2_log_level").value = levels.index(level) if level in levels else 3
    except (OSError, ValueError):
        return  # a build of torch without that flag
