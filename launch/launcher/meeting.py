"""Where the nodes of a run meet, and which of them this is, as the options say it."""

from __future__ import annotations

import re
import uuid
from typing import NamedTuple

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.launcher.numbers import count, name, seconds
from shardnet.launch.launcher.options import Typed
from shardnet.transport.door.endpoint import join_endpoint, split_endpoint

LOOPBACK = "127.0.0.1"
ENDPOINT_PORT, MASTER_PORT = 29400, 29500
"""Where none is given, as with torchrun: of --rdzv-endpoint, and of --master-addr."""
MOST_NODES = 1024
JOIN_S = 600.0
"""How long nodes wait for each other, as with torchrun."""
ANY = 0
"""As a port: a free one."""


class Address(NamedTuple):
    """Of a door."""

    host: str
    port: int

    @property
    def endpoint(self) -> str:
        return join_endpoint(self.host, self.port)


class Meeting(NamedTuple):
    """Of the nodes of one run."""

    run_id: str
    min_nodes: int
    max_nodes: int
    door: Address | None
    """None for a door that only this user's processes can find, which one node needs and no other."""
    rank: int | None
    """Of this node; None where that is left to who comes first."""
    is_host: bool | None
    """Whether this node opens the door; None likewise."""
    join_s: float
    local_addr: str
    """By which others call this machine."""
    invite: str | None = None
    """By which this node is let in, where the first one is on another host."""

    @property
    def has_fixed_ranks(self) -> bool:
        """Whether the options alone say which node this is of how many."""
        return self.max_nodes == 1 or (self.min_nodes == self.max_nodes and self.rank is not None)


def meeting_of(typed: Typed) -> Meeting:
    """
    Raises:
        BadRequest: the options say something impossible, or contradict each other.
    """
    texts = typed.texts
    _require_backend(texts["rdzv_backend"])
    is_standalone = "standalone" in typed.flags
    min_nodes, max_nodes = _nodes(texts["nnodes"], is_standalone=is_standalone)
    said = _configured(texts["rdzv_conf"])
    rank = count("--node-rank", texts["node_rank"], 0, max_nodes - 1) if texts["node_rank"] else None
    run_id = name("--rdzv-id", texts["rdzv_id"])
    return Meeting(
        run_id=uuid.uuid4().hex if is_standalone and run_id == "none" else run_id,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        door=_door(typed, max_nodes),
        rank=rank,
        is_host=_is_host(said.get("is_host"), rank, max_nodes, is_invited="invite" in said),
        join_s=seconds("join_timeout in --rdzv-conf", said["join_timeout"]) if "join_timeout" in said else JOIN_S,
        local_addr=texts["local_addr"] or LOOPBACK,
        invite=_invite(said.get("invite"), rank, max_nodes),
    )


def _require_backend(backend: str) -> None:
    if backend not in ("static", "c10d"):
        raise BadRequest(
            f"--rdzv-backend can be static or c10d, which are the same here, but is {quoted(backend)}: nodes meet at a "
            "door of shardnet's own, and need no other service. Leave it out."
        )


def _nodes(text: str, *, is_standalone: bool) -> tuple[int, int]:
    least, _, most = text.partition(":")
    found = count("--nnodes", least, 1, MOST_NODES), count("--nnodes", most if ":" in text else least, 1, MOST_NODES)
    if found[0] > found[1]:
        raise BadRequest(f"--nnodes is MIN:MAX, but {text} has the larger one first.")
    if is_standalone and found[1] > 1:
        raise BadRequest(f"--standalone is for one node, but --nnodes is {text}. Leave one of them out.")
    return found


def _door(typed: Typed, max_nodes: int) -> Address | None:
    texts = typed.texts
    endpoint, host, port = texts["rdzv_endpoint"], texts["master_addr"], texts["master_port"]
    if endpoint and (host or port):
        raise BadRequest(
            "--rdzv-endpoint and --master-addr or --master-port all say where nodes meet. Leave --master-addr and "
            "--master-port out."
        )
    if endpoint:
        return _address(endpoint, max_nodes)
    if not (host or port or max_nodes > 1):
        return None
    return Address(host or LOOPBACK, count("--master-port", port, 1, 2**16 - 1) if port else MASTER_PORT)


def _address(endpoint: str, max_nodes: int) -> Address:
    """
    Raises:
        UsageError: it is no endpoint.
    """
    if re.fullmatch(r"[^\s:]+|\[[^\s\]]+\]", endpoint):
        endpoint = f"{endpoint}:{ENDPOINT_PORT}"
    if re.search(r"\D:0+$|\d:0+$", endpoint):
        if max_nodes > 1:
            raise BadRequest("--rdzv-endpoint with port 0 means any port, and other nodes could not find it. Name one.")
        host, _ = split_endpoint(f"{endpoint.rpartition(':')[0]}:1")
        return Address(host, ANY)
    return Address(*split_endpoint(endpoint))


def _configured(text: str) -> dict[str, str]:
    said = {}
    for part in filter(None, text.split(",")):
        key, _, value = (each.strip() for each in part.partition("="))
        if not key or not value:
            raise BadRequest(f"--rdzv-conf is KEY=VALUE,..., but has {quoted(part)}.")
        said[key] = value
    for key in said:
        if key not in ("is_host", "join_timeout", "invite"):
            raise BadRequest(
                f"--rdzv-conf {quoted(key)} has no meaning here, where is_host, join_timeout and invite have one. "
                "Leave it out."
            )
    return said


def _invite(code: str | None, rank: int | None, max_nodes: int) -> str | None:
    if code is not None and (rank == 0 or max_nodes == 1):
        raise BadRequest("invite=CODE in --rdzv-conf lets a further node in, and this is the first. Leave it out.")
    return code


def _is_host(text: str | None, rank: int | None, max_nodes: int, *, is_invited: bool) -> bool | None:
    if text is None:
        if max_nodes == 1 or is_invited:
            return max_nodes == 1
        return None if rank is None else rank == 0
    known = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if known is None:
        raise BadRequest(f"is_host in --rdzv-conf must be true or false, but is {quoted(text)}.")
    if rank is not None and known != (rank == 0):
        raise BadRequest(f"is_host={text} and --node-rank {rank} contradict each other: node 0 opens the door.")
    if known and is_invited:
        raise BadRequest("is_host and invite=CODE in --rdzv-conf contradict each other: node 0 lets the others in.")
    if max_nodes == 1 and not known:
        raise BadRequest("is_host=false leaves nobody to open the door: --nnodes is 1. Say how many there are.")
    return known
