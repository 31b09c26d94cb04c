"""An elastic group of torch RPC agents: devices come, leave and die, and the others are not disturbed.

A backend of our own ("SHARDNET_ELASTIC") on the stock `TensorPipeAgent`. The stock groups do not do: the static one
cannot shrink, and the dynamic one calls *every* known member on a join, so that one dead member blocks all later ones.
What is different here:

- The roster (name -> id) is one key of the store, changed by compare-and-set. There is no lock that a dying device
  could keep, and whoever comes later in that order sees those who came before.
- An agent is called after its id ("member7") and ids are never reused, so a device that comes back under its old name
  is a stranger to torch: nothing is ever taken out of an agent's tables. Taking out would race with the calls of other
  threads (`updateGroupMembership` erases without its lock), and made the C++ side throw when an RRef of an erased
  member was collected. It also keeps names with a "-" apart from torch's "name-id," lists.
- An agent starts with an empty list of members, and looks a peer's address up when it first needs it.

Uses private names of torch.distributed.rpc: tests/integration/test_elastic_rpc.py says whether a torch has them.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.autograd as dist_autograd
from torch.distributed import rpc
from torch.distributed.rpc import api, backend_registry

from shardnet.errors import ClusterError, JoinFailed, UsageError
from shardnet.transport.rpc.store import ANSWER_S, MAX_ID, NEXT_ID, StoreThread, split_endpoint

BACKEND = "SHARDNET_ELASTIC"
_ROSTER = "shardnet/roster"
_DRAWN = "shardnet/drawn"
_num_agents = itertools.count()


class Group:
    """This process's agent in a cluster, and the cluster's roster in the store."""

    def __init__(self, endpoint: str, *, timeout_s: float) -> None:
        """Start an agent. It belongs to the group for others only after `enlist`.

        Raises:
            UsageError: the endpoint is not "host:port", or this process is in a cluster already.
            JoinFailed: no store answers there in time.
        """
        host, port = split_endpoint(endpoint)
        if rpc._is_current_rpc_agent_set():
            raise UsageError("This process is in a cluster already. Close that transport first.")
        _silence_torch()
        _listen_on_loopback_by_default()
        self._known: dict[int, rpc.WorkerInfo] = {}
        self._is_given_up = False
        self._questions = StoreThread(endpoint)
        try:
            self._questions.ask(lambda: self._start(host, port, timeout_s), timeout_s=timeout_s + 1)
        except JoinFailed:
            self._questions.close()
            raise
        except ClusterError as error:
            self._is_given_up = True
            self._questions.close()
            raise JoinFailed(
                f"No cluster answers at {endpoint} within {timeout_s:g} s. Is the coordinator running there?"
            ) from error
        except BaseException:  # Ctrl-C: the thread goes on starting the agent, of which there is one in a process
            self._is_given_up = True
            self._questions.close()
            raise
        self.is_first = next(_num_agents) == 0
        """Whether this is the first agent of the process: torch counts RRefs for no other."""

    def _start(self, host: str, port: int, timeout_s: float) -> None:
        # The agent needs a connection of its own: it waits on it, and would block ours.
        self._store, agent_store = (_connect(host, port, timeout_s) for _ in range(2))
        self.id = self._store.add(NEXT_ID, 1)
        if self.id > MAX_ID:
            raise JoinFailed(f"This cluster has seen {MAX_ID} devices join. Start it anew: ids are used once.")
        if not self._is_given_up:
            self._agent = _start_agent(agent_store, self.id)
        if self._is_given_up:
            self.close()

    def roster(self, *, timeout_s: float = ANSWER_S) -> dict[str, int]:
        """Who is in the group by the store's account: name -> id.

        Raises:
            ClusterError: the store does not answer.
        """
        text = self._questions.ask(lambda: self._store.compare_set(_ROSTER, "", "{}"), timeout_s=timeout_s)
        roster: dict[str, int] = json.loads(text)
        return roster

    def enlist(self, name: str) -> dict[str, int]:
        """Put this agent on the roster, and return the roster. It is left as it is where another holds the name."""
        while True:
            roster = self.roster()
            if name in roster or self._replace(roster, {**roster, name: self.id}, ANSWER_S):
                return {**roster, name: roster.get(name, self.id)}

    def strike(self, name: str, agent_id: int, *, timeout_s: float = ANSWER_S) -> None:
        """Take a device off the roster, unless its name belongs to another agent by now."""
        while (roster := self.roster(timeout_s=timeout_s)).get(name) == agent_id:
            if self._replace(roster, {other: id for other, id in roster.items() if other != name}, timeout_s):
                return

    def _replace(self, old: dict[str, int], new: dict[str, int], timeout_s: float) -> bool:
        before, after = (json.dumps(roster, sort_keys=True) for roster in (old, new))
        found = self._questions.ask(lambda: self._store.compare_set(_ROSTER, before, after), timeout_s=timeout_s)
        return bool(found.decode() == after)

    def draw(self, counter: str, count: int) -> int:
        """See `Transport.draw`. The store counts them."""
        last: int = self._questions.ask(lambda: self._store.add(f"{_DRAWN}/{counter}", count))
        return last - count + 1

    def worker(self, agent_id: int) -> rpc.WorkerInfo:
        """Where torch sends what is meant for an agent. Asks the store on the first use, then never again.

        Raises:
            ClusterError: no such agent has ever published its address, or the store does not answer.
        """
        known = self._known.get(agent_id)
        return self._questions.ask(lambda: self._introduce(agent_id)) if known is None else known

    def _introduce(self, agent_id: int) -> rpc.WorkerInfo:
        """Let the agent know another one. Runs on the thread that asks the store, so one at a time."""
        name = _agent_name(agent_id)
        # The agent would wait for a missing address, and keep all other threads from sending meanwhile.
        if not self._store.check([f"addrs/{name}"]):
            raise ClusterError(f"Device number {agent_id} has not published an address.")
        worker = rpc.WorkerInfo(name, agent_id)
        if agent_id not in self._known and agent_id != self.id:
            self._agent._update_group_membership(worker, [], {}, True)
        return self._known.setdefault(agent_id, worker)

    def close(self) -> None:
        """End the agent. Waits for nobody else."""
        self._questions.close()
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
    # for ever if it died before it had one. Nobody needs the list: see Group.roster.
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


def _connect(host: str, port: int, timeout_s: float) -> dist.TCPStore:
    store = dist.TCPStore(host, port, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
    store.set_timeout(timedelta(seconds=ANSWER_S))
    return store


def _listen_on_loopback_by_default() -> None:
    """Agents listen where TP_SOCKET_IFNAME says. torch reads it once per process, when the first agent starts."""
    try:
        interfaces = [name for _, name in socket.if_nameindex()]
    except OSError:  # Android lets no program list them; torch then falls back to 127.0.0.1
        interfaces = []
    os.environ.setdefault("TP_SOCKET_IFNAME", next((name for name in interfaces if name.startswith("lo")), "lo"))


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
