"""A stage of a device gets other units: it gives some up, and others of the device become part of it.

Once for each ring, however often and however late it is told.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from shardnet.errors import ClusterError, PlanNotInForce
from shardnet.process.threads import on_thread
from shardnet.stage.shape import Remains
from shardnet.stage.stage import Stage
from shardnet.transport.messages import RingId, StageSizes, Stretch

if TYPE_CHECKING:
    from shardnet.device.stage_host import StageHost


class Shaping:
    """What one stage was told of its shape. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ring_id: RingId | None = None
        self._done: Future[StageSizes] = Future()

    @property
    def is_under_way(self) -> bool:
        """Whether the stage is about to have other units, or to be part of another one."""
        with self._lock:
            return self._ring_id is not None and not self._done.done()

    def begin(self, host: StageHost, ring_id: RingId, stretches: tuple[Stretch, ...]) -> Future[StageSizes]:
        """See `StageHost.shape`."""
        with self._lock:
            if self._ring_id is None or ring_id.plan_version > self._ring_id.plan_version:
                self._ring_id = ring_id
                self._done = on_thread("shardnet-shape", partial(_shape, host, ring_id, stretches))
            return self._done


def _shape(host: StageHost, ring_id: RingId, stretches: tuple[Stretch, ...]) -> StageSizes:
    """Each stage in turn keeps its own stretch; then those behind the first become part of it."""
    if host.key[0] != ring_id:
        raise PlanNotInForce(
            f"{host._premises.transport.name} has a stage of plan {host.key[0].plan_version}, and not of plan "
            f"{ring_id.plan_version}: that one is not in force here."
        )
    stage = host._running()
    others = [_beside(host, ring_id, stretch) for stretch in stretches[1:]]
    for each, stretch in zip((host, *others), stretches, strict=True):
        running = each._running()
        if (running.shard.first_unit, running.shard.last_unit) != stretch[1:]:
            running.between_steps(partial(_trim, each, running, *stretch[1:])).result()
    for other in others:
        left = other._running()
        remains = left.between_steps(left.end_for_another).result()
        other._become_part_of(host)
        try:
            stage.between_steps(partial(_join, host, stage, remains)).result()
        except BaseException:
            remains.sessions.close_all()
            raise
    on_thread("shardnet-free", host._premises.memory.return_freed)
    return host._sizes(stage)


def _beside(host: StageHost, ring_id: RingId, stretch: Stretch) -> StageHost:
    other = host._table.get((ring_id, stretch.stage))
    if other is None:
        raise ClusterError(
            f"{host._premises.transport.name} has no stage {stretch.stage} of plan {ring_id.plan_version} that could "
            "become part of another one. Load the model again."
        )
    return other


def _trim(host: StageHost, stage: Stage, first_unit: int, last_unit: int) -> None:
    """Runs on the stage's compute thread."""
    stage.trim(first_unit, last_unit, host.sent_as)
    host._outlet.send_for(stage.shard.next_unit)


def _join(host: StageHost, stage: Stage, remains: Remains) -> None:
    """Runs on the stage's compute thread."""
    stage.join(remains)
    host._outlet.send_for(stage.shard.next_unit)
