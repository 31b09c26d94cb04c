"""What commands ask of a cluster that runs, as sources of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.process.lasting import as_option
from shardnet.source.running_cluster import RunningCluster


def load(folder: Path, model: str, options: LoadOptions) -> None:
    """Load a model, and say where it is."""
    with RunningCluster.connect(folder) as cluster:
        loaded = cluster.load(model, **options)
        print(f"{loaded.profile.name} is loaded.\n{loaded.plan}")


def unload(folder: Path) -> None:
    """Unload."""
    with RunningCluster.connect(folder) as cluster:
        status = cluster.status()
        was = status.model or status.loading
        cluster.unload()
    print(f"{was} is unloaded." if was else "No model was loaded.")


def leave(folder: Path, name: str | None) -> None:
    """Tell a device to leave.

    Raises:
        BadRequest: it must be named, or there is none of that name.
    """
    with RunningCluster.connect(folder) as cluster:
        device = name or _only_one(cluster.devices, folder, "leave")
        told = cluster.leave(device)
    print(f"{device} leaves: {told}." if told else f"{device} leaves.")


def pause(folder: Path, name: str | None) -> None:
    """Have a device hold nothing for a while.

    Raises:
        BadRequest: it must be named, or there is none of that name.
    """
    with RunningCluster.connect(folder) as cluster:
        device = name or _only_one(cluster.devices, folder, "pause")
        told = cluster.pause(device)
    print(f"{device} pauses: {told}." if told else f"{device} pauses.")


def unpause(folder: Path, name: str | None) -> None:
    """Let a device be used again.

    Raises:
        BadRequest: it must be named, or there is none of that name.
    """
    with RunningCluster.connect(folder) as cluster:
        device = name or _only_one(cluster.devices, folder, "unpause")
        why = cluster.unpause(device)
    print(f"{device} stays paused: {why}." if why else f"{device} takes work again.")


def remove(folder: Path, name: str) -> None:
    """Strike off a device."""
    with RunningCluster.connect(folder) as cluster:
        cluster.remove(name)
    print(f"{name} is struck off.")


def resume(folder: Path, number: int | None, *, as_json: bool) -> None:
    """Let an answer go on that broke off, and print all of it."""
    with RunningCluster.connect(folder) as cluster, cluster.resume(number) as stream:
        for piece in stream:
            if not as_json:
                print(piece, end="", flush=True)
        print(json.dumps(asdict(stream.result)) if as_json else "", flush=True)  # the answer ends its line


def forget(folder: Path, number: int) -> None:
    """Remove an answer that broke off."""
    with RunningCluster.connect(folder) as cluster:
        cluster.forget(number)
    print(f"Answer {number} is forgotten.")


def _only_one(devices: tuple[str, ...], folder: Path, command: str) -> str:
    """
    Raises:
        BadRequest: there are several, or none.
    """
    if len(devices) == 1:
        return devices[0]
    if not devices:
        raise BadRequest(f"no device has joined this cluster, so none can {command}.")
    example = f"shardnet {command} {devices[-1]}{as_option(folder)}"
    raise BadRequest(f"several devices could {command}: {', '.join(devices)}. Name one: {example}")
