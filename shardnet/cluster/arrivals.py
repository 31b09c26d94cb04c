"""Joins the devices at a door as the one that coordinates them, and waits for devices to join."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shardnet.cluster.comings import is_device
from shardnet.cluster.local_workers import LocalWorkers
from shardnet.errors import JoinFailed, NameTaken
from shardnet.foreign.quoting import counted
from shardnet.progress import Progress
from shardnet.transport import RpcTransport
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import COORDINATOR

JOIN_S = 60.0
"""How long devices may take to start and to join."""


def join_as_coordinator(endpoint: str, timeout_s: float) -> RpcTransport:
    """
    Raises:
        JoinFailed: another process coordinates the devices there, or none answers.
    """
    try:
        return RpcTransport.join(endpoint, COORDINATOR, timeout_s=timeout_s)
    except NameTaken as cause:
        raise JoinFailed(
            f"Another process coordinates the devices at {endpoint} already, and one at a time can. Connect when it "
            "has closed its cluster; of several ranks, let one connect."
        ) from cause


def wait_for(transport: Transport, names: Sequence[str], progress: Progress, workers: LocalWorkers) -> None:
    """Wait until all of them have joined.

    Raises:
        JoinFailed: a process ended before, or they are late.
    """
    deadline = time.monotonic() + JOIN_S
    while missing := [name for name in names if name not in transport.members()]:
        progress("starting devices", len(names) - len(missing), len(names))
        for name, _ in workers.poll():
            raise JoinFailed(f"{name} could not join: its process {workers.how_it_ended(name)}")
        if time.monotonic() > deadline:
            raise JoinFailed(f"{', '.join(missing)} did not join within {JOIN_S:.0f} s. Is this machine overloaded?")
        time.sleep(0.01)
    progress("starting devices", len(names), len(names))


def wait_for_number(transport: Transport, num_devices: int | None, progress: Progress) -> list[str]:
    """The devices that are there, as soon as they are so many; one at least.

    Raises:
        JoinFailed: they are late.
    """
    wanted = num_devices or 1
    deadline = time.monotonic() + JOIN_S
    while True:
        present = [name for name in transport.members() if is_device(name)]
        progress("waiting for devices", min(len(present), wanted), wanted)
        if len(present) >= wanted:
            return present
        if time.monotonic() > deadline:
            raise JoinFailed(
                f"{counted(wanted, 'devices')} should come, but after {JOIN_S:.0f} s there are only {len(present)}."
            )
        time.sleep(0.02)
