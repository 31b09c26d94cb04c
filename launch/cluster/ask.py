"""What commands ask of a cluster that runs, as sources of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.launch.values import DRAFTING
from shardnet.process.lasting import as_option
from shardnet.session.options import GenerationOptions
from shardnet.source.running_cluster import RunningCluster

_DOES = {
    "leave": ("leaves", "leaves"),
    "pause": ("pauses", "pauses"),
    "unpause": ("takes work again", "stays paused"),
}
"""What a device does then, and the same where there is more to say of it."""


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


def tell_device(folder: Path, what: Literal["leave", "pause", "unpause"], name: str | None) -> None:
    """Have a device do that, and say what became of it.

    Raises:
        BadRequest: it must be named, or there is none of that name.
    """
    with RunningCluster.connect(folder) as cluster:
        device = _only_one(cluster.devices, folder, what) if name is None else name
        ways = {"leave": cluster.leave, "pause": cluster.pause, "unpause": cluster.unpause}
        told = ways[what](device)
    does, does_with_more = _DOES[what]
    print(f"{device} {does_with_more}: {told}." if told else f"{device} {does}.")


def remove(folder: Path, name: str) -> None:
    """Strike off a device."""
    with RunningCluster.connect(folder) as cluster:
        cluster.remove(name)
    print(f"{name} is struck off.")


def resume(folder: Path, number: int | None, guessing: GenerationOptions, *, as_json: bool) -> None:
    """Let an answer go on that broke off, and print all of it."""
    draft = {name: guessing[name] for name in DRAFTING}
    with RunningCluster.connect(folder) as cluster, cluster.resume(number, **draft) as stream:
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
