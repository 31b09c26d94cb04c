"""What one more device would bring to a cluster that outlives commands."""

from __future__ import annotations

from shardnet.cluster.deployment import Deployment
from shardnet.cluster.model import Model
from shardnet.cluster.one_more import Placed, gain_of, room_for
from shardnet.cluster.survey import Surveyor
from shardnet.coordinator.loads import Loads
from shardnet.described.clusters import DeviceClass
from shardnet.errors import DoesNotFit, ShardnetError
from shardnet.transport.base import Transport


def prospects_of(transport: Transport, devices: tuple[str, ...], loads: Loads, kind: DeviceClass, what: str) -> str:
    """What a device of a class would bring to the model that is loaded or wanted, in a sentence; empty where nothing
    can be said. Takes seconds.

    Args:
        devices: those that are there.
        what: such a device in words: "a phone".

    Raises:
        ShardnetError: a device does not answer.
    """
    try:
        model = loads.loaded().model
    except DoesNotFit:
        wanted = _wanted(transport, devices, loads)
        return "" if wanted is None else room_for(wanted, kind, what)
    except ShardnetError:  # there is none, or not yet
        return ""
    placed = _placed(model)
    return "" if placed is None else gain_of(placed, kind, what)


def _placed(model: Model) -> Placed | None:
    """None while it is being placed anew, and where it was placed by hand."""
    deployment = model.deployment
    assert isinstance(deployment, Deployment), "this process coordinates the model"
    blueprint = None if deployment.rings is None else deployment.rings.blueprint
    if blueprint is None or blueprint.options.split is not None:
        return None
    options = blueprint.options
    return Placed(
        model.profile,
        blueprint.devices,
        blueprint.links,
        options.placement,
        options.objective,
        options.in_flight,
        blueprint.context_tokens,
        options.kv_memory_bytes,
        options.private_to,
    )


def _wanted(transport: Transport, devices: tuple[str, ...], loads: Loads) -> Placed | None:
    options, profile = loads.wanted_options, loads.profile
    if options is None or profile is None or options.split is not None:
        return None
    return Placed(
        profile,
        tuple(Surveyor(transport).memory(devices)),
        (),
        options.placement,
        options.objective,
        options.in_flight,
        options.context_tokens or profile.context_tokens,
        options.kv_memory_bytes,
        options.private_to,
    )
