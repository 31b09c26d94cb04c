"""The ring of now, as those see it who load beforehand what another one will need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.plan import Plan, StagePlan
from shardnet.policy.succession import Means
from shardnet.transport.messages import Owner, StageSpec


class Present(NamedTuple):
    """The ring that is to be kept alive."""

    blueprint: Blueprint
    plan: Plan
    stages: Sequence[StagePlan]
    specs: Sequence[StageSpec]
    means: Means
    held: Sequence[RemoteStage] = ()
    """The stages themselves."""

    def owners_of(self, stage: StagePlan) -> tuple[Owner, ...]:
        """Who has the units of a stage that is kept ready."""
        found = [held.owner_of(stage) for held in self.held if held.plan.device != stage.device]
        return tuple(owner for owner in found if owner is not None)

    def still_has_room(self, after: Plan, now: Means) -> bool:
        """Whether a change that had room while it was prepared has it for the sessions that came since, too."""
        if now.reserved_tokens <= self.means.reserved_tokens:
            return True
        can_change = self.blueprint.can_change(self.plan.stages, after.stages, now.tokens)
        return can_change and now.has_room(after.stages, now.reserved_tokens)
