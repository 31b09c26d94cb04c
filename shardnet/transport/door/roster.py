"""Who is in the cluster, and which numbers were given out. Pure: knows no sockets, no threads and no time.

Every change has a version, and whoever knows an old version can be told what differs. Ids are never used again: of a
name that came back under another id, the old id is known to have left. Nothing here grows without end: torch has 2**15
ids, and counters are few.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from shardnet.errors import ClusterError, JoinFailed, UsageError
from shardnet.transport.door.messages import News

MAX_ID = 2**15 - 1
"""torch keeps the id of an agent in 16 bits."""
MOST_COUNTERS = 64
MOST_DRAWN = 2**62


class Member(NamedTuple):
    """A device on the roster."""

    id: int
    name: str
    address: str
    """Of its agent."""


class Roster:
    """The members, each from the version at which it joined."""

    def __init__(self, last_id: int = 0) -> None:
        """`last_id` counts as given out. A random one keeps the ids of a cluster apart from those of another one,
        under which a process that changes clusters may have made RRefs."""
        self.version = 0
        self._last_id = last_id
        self._by_name: dict[str, Member] = {}
        self._joined_at: dict[int, int] = {}
        """Of each member, in the order of versions."""
        self._left_at: list[int] = []
        self._left: list[int] = []
        """The ids that left, and above it at which version each."""
        self._drawn: dict[str, int] = {}

    @property
    def members(self) -> tuple[Member, ...]:
        """Those who are in the cluster, in the order in which they joined."""
        return tuple(self._by_name.values())

    def admit(self) -> int:
        """An id that nobody else gets.

        Raises:
            JoinFailed: there is none left.
        """
        if self._last_id >= MAX_ID:
            raise JoinFailed(f"This cluster has seen {MAX_ID} devices join. Start it anew: ids are used once.")
        self._last_id += 1
        return self._last_id

    def enlist(self, newcomer: Member) -> Member | None:
        """Put a newcomer on the roster; where another holds its name, return that one and change nothing.

        Raises:
            ClusterError: it is there already, or was struck off.
        """
        if newcomer.id in self._joined_at or newcomer.id in self._left:
            raise ClusterError(f"Device number {newcomer.id} has been in this cluster before. Join it anew.")
        holder = self._by_name.get(newcomer.name)
        if holder is None:
            self.version += 1
            self._by_name[newcomer.name] = newcomer
            self._joined_at[newcomer.id] = self.version
        return holder

    def strike(self, member_id: int) -> bool:
        """Take a member off the roster for good. False where it is not there."""
        if self._joined_at.pop(member_id, None) is None:
            return False
        self.version += 1
        self._by_name = {name: member for name, member in self._by_name.items() if member.id != member_id}
        self._left_at.append(self.version)
        self._left.append(member_id)
        return True

    def changes_since(self, version: int) -> News:
        """What somebody must be told who knows that version."""
        new = [each for each in self.members if self._joined_at[each.id] > version]
        left = tuple(self._left[bisect_right(self._left_at, version) :])
        return News(self.version, tuple((each.id, each.name, each.address) for each in new), left)

    def draw(self, counter: str, count: int) -> int:
        """The first of `count` consecutive numbers, from 1 up, that nobody gets again.

        Raises:
            UsageError: an impossible number of them, or a counter too many.
        """
        first = self._drawn.get(counter, 0) + 1
        if not 0 < count <= MOST_DRAWN - first:
            raise UsageError(f"{count} numbers cannot be drawn from {counter!r}, of which {first - 1} are given out.")
        if first == 1 and len(self._drawn) >= MOST_COUNTERS:
            raise UsageError(f"A cluster has at most {MOST_COUNTERS} counters.")
        self._drawn[counter] = first + count - 1
        return first
