"""Who is in the cluster, and which numbers were given out. Pure: knows no sockets, no threads and no time.

Every change has a version, and whoever knows an old version can be told what differs. Ids are never used again: of a
name that came back under another id, the old id is known to have left. Nothing here grows without end: torch has 2**15
ids, and counters are few.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from shardnet.errors import ClusterError, JoinFailed, UsageError
from shardnet.transport.door.messages import News

MAX_ID = 2**15 - 1
"""torch keeps the id of an agent in 16 bits."""
MOST_OF_HOST = 32
"""Members, of a host that is not the door's: it leaves ids and room to others."""
MOST_COUNTERS = 64
MOST_DRAWN = 2**62


class Member(NamedTuple):
    """A device on the roster."""

    id: int
    name: str
    address: str
    """Of its agent."""
    secret_hash: bytes = b""
    """Of what it says when it comes back."""
    process: str = ""
    """Where that is known; see `process.identity`."""
    host: str = ""
    """By its certificate; empty for the host of the door."""


class RosterState(NamedTuple):
    """All that a roster knows, to be kept."""

    version: int
    last_id: int
    members: tuple[tuple[Member, int], ...]
    """Each with the version at which it joined, in that order."""
    left: tuple[tuple[int, int], ...]
    """The ids that left, each with the version, in that order."""
    drawn: Mapping[str, int]


class Roster:
    """The members, each from the version at which it joined."""

    def __init__(self, state: RosterState) -> None:
        """
        Raises:
            ValueError: the state contradicts itself.
        """
        self.version = state.version
        self.kept = state.version
        """The version that may be told. What is later would be forgotten if this process were killed now: whoever was
        told of it would miss what gets that version instead."""
        self.num_changes = 0
        """Of all that is to be kept: numbers that were given out have no version."""
        self._last_id = state.last_id
        self._members = {member.id: member for member, _ in state.members}
        self._ids = {member.name: member.id for member, _ in state.members}
        self._joined_at = {member.id: version for member, version in state.members}
        self._leaving: list[tuple[Member, int, int]] = []
        """Those who left, with the versions at which they joined and left, as long as that must not be told yet."""
        self._left_at = [version for _, version in state.left]
        self._left = [member_id for member_id, _ in state.left]
        """The ids that left, and above it at which version each."""
        self._drawn = dict(state.drawn)
        _require_consistent(state)

    @property
    def state(self) -> RosterState:
        """What makes an equal roster."""
        members = tuple((member, self._joined_at[member.id]) for member in self.members)
        return RosterState(
            self.version, self._last_id, members, tuple(zip(self._left, self._left_at)), dict(self._drawn)
        )

    @property
    def members(self) -> tuple[Member, ...]:
        """Those who are in the cluster, in the order in which they joined."""
        return tuple(self._members.values())

    def member(self, member_id: int) -> Member | None:
        """Who has that id now."""
        return self._members.get(member_id)

    def admit(self) -> int:
        """An id that nobody else gets.

        Raises:
            JoinFailed: there is none left.
        """
        if self._last_id >= MAX_ID:
            raise JoinFailed(f"This cluster has seen {MAX_ID} devices join. Start it anew: ids are used once.")
        self._last_id += 1
        self.num_changes += 1
        return self._last_id

    def enlist(self, newcomer: Member) -> Member | None:
        """Put a newcomer on the roster; where another holds its name, return that one and change nothing.

        Raises:
            ClusterError: it is there already, or was struck off.
            JoinFailed: its host has as many members as it may.
        """
        self.require_new(newcomer.id)
        holder = self._ids.get(newcomer.name)
        if holder is not None:
            return self._members[holder]
        if newcomer.host and sum(each.host == newcomer.host for each in self.members) >= MOST_OF_HOST:
            raise JoinFailed(
                f"The host {newcomer.host} has {MOST_OF_HOST} members in this cluster, devices and who asks it, and no "
                "more can be. Let one of them leave."
            )
        self._change()
        self._members[newcomer.id] = newcomer
        self._ids[newcomer.name] = newcomer.id
        self._joined_at[newcomer.id] = self.version
        return None

    def require_new(self, member_id: int) -> None:
        """
        Raises:
            ClusterError: who has that id is there already, or was struck off.
        """
        if member_id in self._joined_at or member_id in self._left:
            raise ClusterError(f"Device number {member_id} has been in this cluster before. Join it anew.")

    def strike(self, member_id: int) -> bool:
        """Take a member off the roster for good. False where it is not there."""
        member = self._members.pop(member_id, None)
        if member is None:
            return False
        self._change()
        del self._ids[member.name]
        self._leaving.append((member, self._joined_at.pop(member_id), self.version))
        self._left_at.append(self.version)
        self._left.append(member_id)
        return True

    def _change(self) -> None:
        self.version += 1
        self.num_changes += 1

    def changes_since(self, version: int) -> News:
        """What somebody may be told who knows that version."""
        self._leaving = [each for each in self._leaving if each[2] > self.kept]
        present = [(member, self._joined_at[member.id]) for member in self.members]
        present += [(member, joined_at) for member, joined_at, _ in self._leaving]
        joined = [member for member, joined_at in present if version < joined_at <= self.kept]
        first, end = (bisect_right(self._left_at, each) for each in (version, self.kept))
        told = tuple((each.id, each.name, each.address, each.host) for each in joined)
        return News(self.kept, told, tuple(self._left[first:end]))

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
        self.num_changes += 1
        return first


def new_roster() -> Roster:
    """Of a new cluster. Its first id is random, which keeps its ids apart from those of another one, under which a
    process that changes clusters may have made RRefs."""
    last_id = secrets.randbelow(MAX_ID // 2)
    return Roster(RosterState(0, last_id, (), (), {}))


def _require_consistent(state: RosterState) -> None:
    """See that nothing was given out twice, or will be.

    Raises:
        ValueError: it was.
    """
    joined_at = [version for _, version in state.members]
    left_at = [version for _, version in state.left]
    ids = [member.id for member, _ in state.members] + [member_id for member_id, _ in state.left]
    names = {member.name for member, _ in state.members}
    is_in_order = joined_at == sorted(joined_at) and left_at == sorted(left_at)
    is_once = len(set(ids)) == len(ids) and len(names) == len(joined_at) and len({*joined_at, *left_at}) == len(ids)
    is_bounded = all(0 < each <= state.last_id for each in ids) and max(joined_at + left_at, default=0) <= state.version
    if not is_in_order or not is_once or not is_bounded or not 0 <= state.last_id <= MAX_ID:
        raise ValueError("it contradicts itself")
