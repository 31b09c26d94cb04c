"""After a loss a device may have two stages that follow each other: what it had, and what it took over. They become one
when the second has caught up with the first, so that nothing is computed anew for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from shardnet.cluster.ring import Ring
from shardnet.errors import ShardnetError
from shardnet.policy.shape import are_level
from shardnet.transport.messages import SessionStanding

FIRST_S, MOST_S = 0.05, 1.0
"""Between two looks; each time a little longer."""


def tidy(ring: Ring, has_left: Callable[[Ring, float], bool], renew: Callable[[Ring], object]) -> None:
    """Wait until the stages of a ring that could be one stand at the same tokens, or nearly, and have them become one.

    Args:
        has_left: waits for so many seconds, and says whether the ring is not in force any more: then nothing is done.
        renew: goes over to another ring of the same stages, where that one is still in force.
    """
    wait_s = FIRST_S
    while not has_left(ring, wait_s):
        try:
            is_level = _is_level(ring)
        except ShardnetError:  # whoever watches the devices hears of it, too
            return
        if is_level:
            for stage in ring.members:
                stage.is_level = True
            renew(ring)
            return
        wait_s = min(1.5 * wait_s, MOST_S)


def _is_level(ring: Ring) -> bool:
    asked = [(one.standings(), other.standings()) for one, other in ring.divided()]
    return all(are_level([_by_session(answer.result()) for answer in pair]) for pair in asked)


def _by_session(standings: Iterable[SessionStanding]) -> Mapping[int, SessionStanding]:
    return {standing.session: standing for standing in standings}
