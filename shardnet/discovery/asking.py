"""Asks a local network for clusters, by datagrams. It needs no library, and no right to hear what is sent to all."""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from shardnet.discovery.datagrams import MOST_BYTES, Announced, announced_in, question
from shardnet.trust.addresses import Address

GROUP = ("224.0.0.251", 5353)
ASK_AT_S = (0.0, 0.4, 1.2, 2.5, 5.0)
"""Datagrams are lost, and an announcement may be a second old."""
LOOK_S = 8.0
"""A coordinator that has just been started is busy with its model for a while."""
OTHERS_S = 0.6
"""How long to wait for others when that is heard which was looked for: whoever answers, answers at once."""
MOST_HEARD = 1000


def look(
    own: Sequence[str],
    is_enough: Callable[[Sequence[Announced]], bool],
    group: tuple[str, int] = GROUP,
    look_s: float = LOOK_S,
) -> list[Announced]:
    """What is announced in the networks of this host.

    Args:
        own: IPv4 addresses of this host, in whose networks to ask.
        is_enough: whether what is heard is what was looked for.
        group: where is asked.
        look_s: how long to look where it never is.
    """
    heard: list[Announced] = []
    with ExitStack() as ends:
        askers = [asker for each in own if (asker := _asker(each)) is not None]
        ready = ends.enter_context(selectors.DefaultSelector())  # `select` knows only the first 1024 files of a process
        for asker in askers:
            ends.callback(asker.socket.close)
            ready.register(asker.socket, selectors.EVENT_READ, asker)
        if not askers:
            return []
        begin_s = time.monotonic()
        until_s, ask_at_s = begin_s + look_s, [begin_s + each for each in ASK_AT_S]
        while (now_s := time.monotonic()) < until_s and len(heard) < MOST_HEARD:
            if ask_at_s and now_s >= ask_at_s[0]:
                del ask_at_s[0]
                for asker in askers:
                    asker.ask(group)
            next_s = min([until_s, *ask_at_s[:1]])
            new = [one for key, _ in ready.select(max(0.0, next_s - now_s)) for one in key.data.heard()]
            heard += new
            if new and is_enough(heard):
                until_s = min(until_s, time.monotonic() + OTHERS_S)
    return heard


class _Asker:
    """In one network."""

    def __init__(self, asking: socket.socket) -> None:
        self.socket = asking
        self._numbers: list[int] = []

    def ask(self, group: tuple[str, int]) -> None:
        self._numbers.append(secrets.randbelow(2**16 - 1) + 1)  # who is asked the same again at once does not answer
        with suppress(OSError):  # the network is gone: there is another time
            self.socket.sendto(question(self._numbers[-1]), group)

    def heard(self) -> list[Announced]:
        """Each with the address first from which the answer came: it leads there."""
        try:
            datagram, (sender, *_) = self.socket.recvfrom(MOST_BYTES)
        except OSError:
            return []
        told = (announced for number in self._numbers for announced in announced_in(datagram, number))
        return [each._replace(gates=_with_first(each.gates, str(sender))) for each in told]


def _asker(own: str) -> _Asker | None:
    """Of an address that can be asked from; None for others, such as one that the host has no more."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        asking.setblocking(False)
        asking.bind((own, 0))
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    except OSError:
        asking.close()
        return None
    return _Asker(asking)


def _with_first(gates: tuple[Address, ...], host: str) -> tuple[Address, ...]:
    return tuple(sorted(gates, key=lambda gate: gate.host != host))
