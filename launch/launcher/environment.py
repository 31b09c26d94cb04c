"""What a process that runs the script finds in its environment: torchrun's variables, and where devices meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shardnet.errors import BadRequest
from shardnet.launch.launcher.asked import Asked
from shardnet.launch.launcher.meeting import Address

GPUS = "CUDA_VISIBLE_DEVICES"


class Place(NamedTuple):
    """Of this node's scripts among all that run it, who all have one role."""

    node: int = 0
    num_nodes: int = 1
    first_rank: int = 0
    world_size: int = 1
    master: Address | None = None
    """Where torch's own store may listen, in the process of rank 0; None where no other process runs the script."""


def variables(asked: Asked, place: Place, local_rank: int, num_restarts: int, own: Mapping[str, str]) -> dict[str, str]:
    """
    Args:
        own: the launcher's environment.
    """
    return {
        "RANK": str(place.first_rank + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(asked.num_scripts),
        "GROUP_RANK": str(place.node),
        "GROUP_WORLD_SIZE": str(place.num_nodes),
        "ROLE_NAME": asked.role,
        "ROLE_RANK": str(place.first_rank + local_rank),
        "ROLE_WORLD_SIZE": str(place.world_size),
        "TORCHELASTIC_RESTART_COUNT": str(num_restarts),
        "TORCHELASTIC_MAX_RESTARTS": str(asked.max_restarts),
        "TORCHELASTIC_RUN_ID": asked.meeting.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        **_master(place),
        **_threads(asked, own),
        **_virtual_rank(asked, local_rank, own),
    }


def _master(place: Place) -> dict[str, str]:
    if place.master is None:
        return {}
    return {"MASTER_ADDR": place.master.host, "MASTER_PORT": str(place.master.port)}


def _threads(asked: Asked, own: Mapping[str, str]) -> dict[str, str]:
    """Where several processes run the script, one thread each, unless the user has said otherwise."""
    return {"OMP_NUM_THREADS": "1"} if asked.num_scripts > 1 and "OMP_NUM_THREADS" not in own else {}


def _virtual_rank(asked: Asked, local_rank: int, own: Mapping[str, str]) -> dict[str, str]:
    """
    Raises:
        BadRequest: there are too few of them.
    """
    if not asked.has_virtual_rank:
        return {}
    named = own.get(GPUS)
    visible = [str(local_rank)] if named is None else named.split(",")[local_rank : local_rank + 1]
    if not visible:
        raise BadRequest(
            f"--virtual-local-rank gives each process one of {GPUS}={named}, which are too few. Name more, or say a "
            "smaller --nproc-per-node."
        )
    return {"LOCAL_RANK": "0", GPUS: visible[0].strip()}
