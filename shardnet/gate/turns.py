"""Whose handshake is next at the port of a gate: strangers get few a second, however many come. Pure.

Whoever connects takes a token of its neighbourhood and one of all strangers. Where there is none it waits for one, and
is sent away when that takes too long, or where too many wait. Nobody can tell a member before it has shown its
certificate, but of those who did two things are known: what they took is given back, so that any number of them come in
at once; and from the addresses at which they were, others need no token of all strangers, and wait in a line of their
own. So a flood from elsewhere keeps no member waiting.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from shardnet.process.tokens import Bucket, Buckets, Pace

WAIT_S = 3.0
"""How long somebody may wait: who dials gives up after five seconds."""
MOST_WAITING_OF_ONE, MOST_WAITING = 64, 128
"""Of one crowd, and of all strangers: as many as can have their turn in that time."""
MOST_KNOWN = 256
"""Addresses at which members were."""

T = TypeVar("T", bound=Hashable)


class Paces(NamedTuple):
    """Of handshakes. One takes a gate about a millisecond of its processor."""

    of_one: Pace = Pace(30.0, 16)
    """Of one neighbourhood, or one known address."""
    of_strangers: Pace = Pace(60.0, 64)
    of_member: Pace = Pace(2.0, 8)
    """For which a host that has shown its certificate gets back what it took: one that was stolen is bounded, too."""


class _Waiting(NamedTuple):
    crowd: str
    until_s: float


class Turns(Generic[T]):
    """Those who wait, in crowds that take turns: each neighbourhood is one, and each known address."""

    def __init__(self, paces: Paces | None = None) -> None:
        paces = paces or Paces()
        self._of_one, self._of_member = Buckets(paces.of_one), Buckets(paces.of_member)
        self._of_strangers = Bucket(paces.of_strangers)
        self._known: dict[str, None] = {}
        """The addresses, in the order in which members were there last."""
        self._waiting: dict[T, _Waiting] = {}
        """In the order in which they came."""
        self._known_crowds: dict[str, dict[T, None]] = {}
        self._crowds: dict[str, dict[T, None]] = {}
        """Each in the order in which they came; the crowds in the order of their turns."""
        self._sent_away: list[T] = []

    def crowd_of(self, place: str) -> str:
        """With whom an address shares its tokens."""
        return place if place in self._known else neighbourhood(place)

    @property
    def waiting(self) -> tuple[T, ...]:
        """Those whose turn has not come."""
        return tuple(self._waiting)

    def come(self, one: T, place: str, now_s: float) -> None:
        """Somebody has connected from an address."""
        crowd = self.crowd_of(place)
        self._waiting[one] = _Waiting(crowd, now_s + WAIT_S)
        crowds = self._crowds_with(crowd)
        crowds.setdefault(crowd, {})[one] = None
        if len(crowds[crowd]) > MOST_WAITING_OF_ONE:
            self._send_away(one)
        elif len(self._waiting) - sum(map(len, self._known_crowds.values())) > MOST_WAITING:
            largest = max(reversed(self._crowds.values()), key=len)  # the last one of several
            self._send_away(next(reversed(largest)))

    def look(self, now_s: float) -> tuple[list[T], list[T]]:
        """Whose turn it is now, and who is sent away."""
        while self._waiting:
            first, waiting = next(iter(self._waiting.items()))
            if now_s < waiting.until_s:
                break
            self._send_away(first)
        begun: list[T] = []
        while (crowd := self._next_crowd(now_s)) is not None:
            begun.append(self._begin(crowd, now_s))
        sent_away, self._sent_away = self._sent_away, []
        return begun, sent_away

    def again_s(self, now_s: float) -> float | None:
        """When to look again; None where nobody waits."""
        if not self._waiting:
            return None
        times = [next(iter(self._waiting.values())).until_s]
        times += map(self._of_one.free_s, self._known_crowds)
        if self._crowds and now_s < self._of_strangers.free_s:
            times.append(self._of_strangers.free_s)
        else:
            times += map(self._of_one.free_s, self._crowds)
        return min(times)

    def prove(self, place: str, host: str, now_s: float) -> None:
        """Who was begun with has shown a certificate that counts."""
        if self._of_member.free_s(host) <= now_s:
            self._of_member.take(host, now_s)
            self._of_one.give_back(self.crowd_of(place))
            if place not in self._known:
                self._of_strangers.give_back()
        self._known.pop(place, None)
        self._known[place] = None
        _move(place, self._crowds, self._known_crowds)
        if len(self._known) > MOST_KNOWN:
            forgotten = next(iter(self._known))
            del self._known[forgotten]
            _move(forgotten, self._known_crowds, self._crowds)

    def _next_crowd(self, now_s: float) -> str | None:
        for crowd in self._known_crowds:
            if self._of_one.free_s(crowd) <= now_s:
                return crowd
        if self._of_strangers.free_s <= now_s:
            return next((crowd for crowd in self._crowds if self._of_one.free_s(crowd) <= now_s), None)
        return None

    def _begin(self, crowd: str, now_s: float) -> T:
        """Whoever waits longest of a crowd, which is the last then whose turn it is."""
        self._of_one.take(crowd, now_s)
        if crowd not in self._known:
            self._of_strangers.take(now_s)
        crowds = self._crowds_with(crowd)
        one = next(iter(crowds[crowd]))
        self._leave(one)
        if crowd in crowds:
            crowds[crowd] = crowds.pop(crowd)
        return one

    def _crowds_with(self, crowd: str) -> dict[str, dict[T, None]]:
        return self._known_crowds if crowd in self._known else self._crowds

    def _leave(self, one: T) -> None:
        crowd = self._waiting.pop(one).crowd
        crowds = self._crowds_with(crowd)
        del crowds[crowd][one]
        if not crowds[crowd]:
            del crowds[crowd]

    def _send_away(self, one: T) -> None:
        self._leave(one)
        self._sent_away.append(one)


def _move(crowd: str, source: dict[str, dict[T, None]], target: dict[str, dict[T, None]]) -> None:
    if crowd in source:
        target[crowd] = source.pop(crowd)


def neighbourhood(place: str) -> str:
    """Of an address. Whoever has an IPv6 address has 2**64 of them."""
    without_scope = place.partition("%")[0]
    return str(ipaddress.ip_network(f"{without_scope}/64", strict=False)) if ":" in place else place


def place_of(address: object) -> str:
    """The address in what a socket says of its other end. One that listens at [::] sees IPv4 addresses as IPv6 ones,
    all in one neighbourhood."""
    place = str(address[0]) if isinstance(address, tuple) else "?"
    mapped = ipaddress.IPv6Address(place).ipv4_mapped if place.startswith("::ffff:") else None
    return place if mapped is None else str(mapped)
