"""The stages that a deployment has on devices: those of its rings, and those that no ring needs any more."""

from __future__ import annotations

from collections.abc import Collection

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring


class HeldStages:
    """Whoever has it sees to it that one thread uses it at a time."""

    def __init__(self, first: Ring) -> None:
        self.rings: tuple[Ring, ...] = (first,)
        """The present one last; before it, for a moment, those from which it takes over."""
        self._left_over: list[RemoteStage] = []

    def enter(self, *rings: Ring) -> None:
        """From now on it is these rings. What none of them needs is left over."""
        needed = {id(stage) for ring in rings for stage in ring.members}
        self._left_over += [stage for stage in self.of_rings() if id(stage) not in needed]
        self.rings = rings

    def of_rings(self) -> list[RemoteStage]:
        """Those of all rings, each once."""
        return list({id(stage): stage for ring in self.rings for stage in ring.members}.values())

    def release(self, device: str) -> None:
        """Drop the handles to what a device has, which is about to be struck off."""
        for stage in (*self.of_rings(), *self._left_over):
            if stage.plan.device == device:
                stage.release()

    def take_left_over(self, lost: Collection[str] = ()) -> list[RemoteStage]:
        """What is left over, and not on a device that is lost; it is the caller's from now on."""
        left_over, self._left_over = self._left_over, []
        return [stage for stage in left_over if stage.plan.device not in lost]
