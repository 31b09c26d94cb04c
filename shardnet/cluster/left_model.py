"""What the coordinator of a cluster that outlives it leaves of a loaded model: enough to find its stages again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring
from shardnet.plan import DeviceProfile, Link, Plan, StagePlan
from shardnet.transport.messages import StageKey
from shardnet.transport.session_messages import SessionSpec

KEEP_S = 600.0
"""How long devices keep the stages of a model that is kept while no coordinator is there."""


class LeftStage(NamedTuple):
    """A stage on a device."""

    plan: StagePlan
    """What it has, or had: it may have become another one since."""
    places: tuple[StageKey, ...]
    """Those that it may answer to: in the ring that was in force, and in others that were to take over from it."""


class LeftSession(NamedTuple):
    """A session of such a model. What came of it, the stages know."""

    spec: SessionSpec
    """As it was begun."""
    prompt_ids: tuple[int, ...]
    answer: Callable[[], tuple[int, ...]]
    """Says which of its first tokens are known beside the stages."""


@dataclass(frozen=True)
class LeftModel:
    """A loaded model; see `Blueprint` for what is not said here."""

    checkpoint: str
    """Its name by content. What has another name now is another model."""
    epoch: bytes
    """Of its rings."""
    deployment: int
    devices: tuple[DeviceProfile, ...]
    links: tuple[Link, ...]
    context_tokens: int
    codecs: tuple[tuple[int, str], ...]
    unit_weights: tuple[str, ...]
    predicted_loss: float | None
    plan: Plan
    stages: tuple[LeftStage, ...]
    """Of the ring that takes over, where one did, in order: those that stay and those that are new. Several may become
    one when it does."""
    ready: tuple[LeftStage, ...]
    """Those that are kept ready, in no ring."""


Keep = Callable[[LeftModel], object]
"""Told of a model that stands, and again before another ring of it takes over; returns when that is kept. Not to
raise: what cannot be kept is gone with its coordinator, and no sooner."""


def left_of(blueprint: Blueprint, ring: Ring, plan: Plan, ready: Sequence[RemoteStage]) -> LeftModel:
    """What is to be kept of a model whose `ring` is opened, and about to be in force.

    Args:
        ready: stages that are kept ready.
    """
    left = [LeftStage(stage.plan, tuple(dict.fromkeys((*stage.places, place)))) for stage, place in ring.places()]
    return LeftModel(
        checkpoint=blueprint.files.copy.name,
        epoch=ring.ring_id.epoch,
        deployment=blueprint.deployment,
        devices=blueprint.devices,
        links=blueprint.links,
        context_tokens=blueprint.context_tokens,
        codecs=blueprint.codecs,
        unit_weights=blueprint.files.profile.unit_weights,
        predicted_loss=blueprint.files.profile.predicted_loss,
        plan=plan,
        stages=tuple(left),
        ready=tuple(LeftStage(stage.plan, stage.places) for stage in ready),
    )
