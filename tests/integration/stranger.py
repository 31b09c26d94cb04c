"""A stranger on this host: stock torch RPC, not invited, nothing of shardnet. It attacks an agent and says how it went.

    python stranger.py ADDRESS ID FOLDER      (where the agent listens; its number; where it may leave its marks)

Prints one JSON object: for each attack ["answered", what came back] or ["refused", why].
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_rpc import _invoke_rpc_builtin, _invoke_rpc_python_udf
from torch.distributed import autograd, rpc
from torch.distributed.rpc import api

PART = b"cshardnet.transport.messages\nPart\n"
"""A class that may travel, named as pickle names it."""
BUILD_ON_A_CLASS = PART + b"(N}Vtouched\nI01\nstb."
"""pickle's BUILD: set an attribute of what stands before it."""


def request(function: bytes, arguments: bytes) -> bytes:
    """A call as torch pickles it: PythonUDF(function, arguments, {})."""
    return b"ctorch.distributed.rpc.internal\nPythonUDF\n(" + function + arguments + b"}tR."


def introduce(address: str, agent_id: int) -> rpc.WorkerInfo:
    """Start an agent that nobody knows, and tell it of the other one, whose port everybody can see in /proc/net/tcp."""
    name = f"member{agent_id}"
    store = dist.HashStore()
    store.set(f"addrs/{name}", address)
    os.environ["TP_SOCKET_IFNAME"] = "lo"
    autograd._init(agent_id + 100)
    options = rpc.TensorPipeRpcBackendOptions(num_worker_threads=4, _transports=["uv"], _channels=["basic"])
    agent = rpc.TensorPipeAgent(store, "stranger", agent_id + 100, None, options, {}, [])
    store.set("names/_ALL_WORKER_INFOS", "")
    api._init_rpc_states(agent)
    worker = rpc.WorkerInfo(name, agent_id)
    agent._update_group_membership(worker, [], {}, True)
    return worker


def attacks(worker: rpc.WorkerInfo, folder: Path) -> dict[str, Callable[[], Any]]:
    """What is tried, by name. Values are what comes back."""

    def send(payload: bytes) -> Any:
        return _invoke_rpc_python_udf(worker, payload, [], 5.0, False).wait()

    def builtin(*args: Any, **kwargs: Any) -> Any:
        return _invoke_rpc_builtin(worker, *args, **kwargs).wait()

    secret, made = str(folder / "secret"), str(folder / "made")
    return {
        "system": lambda: rpc.rpc_sync(worker, os.system, args=(f"touch {folder}/ran",), timeout=5),
        "reduce": lambda: send(request(b"cos\nsystem\n", pickle.dumps((f"touch {folder}/ran",), 0)[:-1])),
        "build": lambda: send(BUILD_ON_A_CLASS),
        "not an entry": lambda: send(request(PART, b"(I1\nI2\nI3\nt")),
        "read a file": lambda: bytes(
            rpc.rpc_sync(
                worker, torch.from_file, args=(secret, False, 8), kwargs={"dtype": torch.uint8}, timeout=5
            ).tolist()
        ).decode(),
        "read it elsewhere": lambda: builtin(
            "aten::from_file", 5.0, secret, False, 8, out=torch.zeros(8, dtype=torch.uint8)
        ).tolist(),
        "make a file": lambda: rpc.rpc_sync(worker, torch.from_file, args=(made, True, 8), timeout=5).tolist(),
        "an operator": lambda: rpc.rpc_sync(worker, torch.add, args=(torch.ones(1), 1), timeout=5).tolist(),
    }


def main(address: str, agent_id: str, folder: str) -> None:
    worker = introduce(address, int(agent_id))
    outcomes = {}
    for name, attack in attacks(worker, Path(folder)).items():
        try:
            outcomes[name] = ["answered", repr(attack())]
        except Exception as error:
            outcomes[name] = ["refused", str(error).split("\n")[0]]
    print(json.dumps(outcomes), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
