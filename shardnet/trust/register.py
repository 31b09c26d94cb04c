"""The certificates that an authority has given out, and which it has revoked. Pure; every change is a new one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from shardnet.trust.names import COORDINATOR
from shardnet.trust.refusals import Reason, Refused

MOST_ENTRIES = 2**12
MOST_OF_ONE = 16
"""Certificates of one key that count at the same time. A host has two after a renewal, and one more for each answer
that it did not get."""
KEPT_S = 30 * 86400.0
"""How long an entry is kept beyond its certificate's end: clocks differ."""


class Entry(NamedTuple):
    """A certificate that was given out. Times in seconds since 1970."""

    serial: int
    name: str
    key: bytes
    """The fingerprint of its key."""
    since_s: float
    until_s: float
    revoked_s: float | None = None


@dataclass(frozen=True)
class Register:
    """What stands on it, in the order in which it was given out."""

    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        if len(self._by_serial) != len(self.entries):
            raise ValueError("a serial number was given out twice")

    @cached_property
    def _by_serial(self) -> dict[int, Entry]:
        return {entry.serial: entry for entry in self.entries}

    def counts(self, serial: int) -> bool:
        """Whether the certificate of that number was given out here, and not revoked. How long it counts is for TLS to
        look at. One that the register does not know does not count: the file may be an old copy that was put back."""
        entry = self._by_serial.get(serial)
        return entry is not None and entry.revoked_s is None

    def require_free(self, name: str, key: bytes, now_s: float) -> None:
        """See that a host with that key may have a certificate under that name.

        Raises:
            Refused: another one has the name, the key was revoked, or there is no room.
        """
        if any(entry.key == key and entry.revoked_s is not None for entry in self.entries):
            raise Refused(Reason.KEY_REVOKED)
        live = self.live(now_s)
        if any(entry.name.lower() == name.lower() and entry.key != key for entry in live):
            raise Refused(Reason.NAME_TAKEN)
        if sum(entry.key == key for entry in live) >= MOST_OF_ONE or len(self.tidied(now_s).entries) >= MOST_ENTRIES:
            raise Refused(Reason.FULL)

    def live(self, now_s: float) -> tuple[Entry, ...]:
        """Those that count now."""
        return tuple(entry for entry in self.entries if entry.revoked_s is None and now_s < entry.until_s)

    def revoked(self) -> frozenset[int]:
        """The serial numbers of those that count no more, though they may not have expired."""
        return frozenset(entry.serial for entry in self.entries if entry.revoked_s is not None)

    def entered(self, entry: Entry, now_s: float) -> Register:
        """With one more. Where there is room, nothing is forgotten for it: the clock may be wrong."""
        kept = self if len(self.entries) < MOST_ENTRIES else self.tidied(now_s)
        return Register((*kept.entries, entry))

    def revoking(self, serials: Iterable[int], now_s: float) -> Register:
        """With some revoked."""
        which = set(serials)
        changed = (
            entry._replace(revoked_s=now_s) if entry.serial in which and entry.revoked_s is None else entry
            for entry in self.entries
        )
        return Register(tuple(changed))

    def tidied(self, now_s: float) -> Register:
        """Without those that have been over for long."""
        return replace(self, entries=tuple(entry for entry in self.entries if now_s < entry.until_s + KEPT_S))

    def serials_of(self, name: str) -> frozenset[int]:
        """All certificates of a host that are not revoked; it has two after a renewal."""
        return frozenset(
            entry.serial for entry in self.entries if entry.name.lower() == name.lower() and entry.revoked_s is None
        )

    def coordinators_before(self, key: bytes) -> frozenset[int]:
        """Certificates of the coordinator's gate with other keys than this one: of a machine where it was before."""
        own = {entry.serial for entry in self.entries if entry.key == key}
        return self.serials_of(COORDINATOR) - own
