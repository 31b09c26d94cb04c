"""What `shardnet-run` tells the script that it runs, and all that this one starts: where the devices meet.

Knows the names of these variables; `tests/test_layers.py` lists who looks into the environment. A script is not given
the endpoint, it calls `Cluster.connect()`, and a process that it starts has nothing else by which it could hear of the
devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shardnet.errors import BadRequest

ENDPOINT = "SHARDNET_ENDPOINT"
NUM_DEVICES = "SHARDNET_NUM_DEVICES"
"""torchrun's WORLD_SIZE counts the processes that run the script."""


class MeetingPoint(NamedTuple):
    """Where devices meet, and how many they are."""

    endpoint: str
    """Of the door: "HOST:PORT" or "unix:PATH"."""
    num_devices: int | None

    def variables(self) -> dict[str, str]:
        """What says it to a process."""
        return {NUM_DEVICES: str(self.num_devices), ENDPOINT: self.endpoint}


def announced_in(environment: Mapping[str, str]) -> MeetingPoint | None:
    """What an environment says; None where the process was not started by `shardnet-run`.

    Raises:
        BadRequest: it says something impossible.
    """
    endpoint, number = environment.get(ENDPOINT), environment.get(NUM_DEVICES)
    if not endpoint:
        return None
    if number is not None and not (number.isdecimal() and int(number) > 0):
        raise BadRequest(f"{NUM_DEVICES} in the environment must be a whole number of 1 or more, but is {number!r}.")
    return MeetingPoint(endpoint, None if number is None else int(number))
