"""The question for clusters in a local network, and what answers it: mDNS (RFC 6762, 6763), as far as it finds one.

The question is a one-shot query from a port of its own (RFC 6762, section 6.7), so that answers come back to that port
alone. An answer is a datagram that anybody may have sent: what in it is no announcement of a cluster is passed over.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import NamedTuple

from shardnet.trust.addresses import Address, address_of
from shardnet.trust.codes import MOST_SLOTS

SERVICE = "_shardnet._tcp.local"
SLOTS = "slots"
"""What an announcement calls the slots of the short codes that are open: numbers with commas between them."""
MOST_BYTES = 9000
MOST_RECORDS = 64
_HEAD = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_IN, _ANSWER = 1, 0x8000
_A, _PTR, _TXT, _SRV = 1, 12, 16, 33
_MOST_JUMPS = 32


class Announced(NamedTuple):
    """What somebody says to be a cluster."""

    cluster: str
    """Its id: a label, the same as long as the cluster has its authority."""
    slots: frozenset[int]
    """Those of the short codes that are open there."""
    gates: tuple[Address, ...]
    """Where it can be dialled."""


class _Record(NamedTuple):
    name: tuple[bytes, ...]
    kind: int
    begin: int
    end: int


def question(number: int) -> bytes:
    """The question who announces a cluster.

    Args:
        number: of 16 bits, which answers repeat.
    """
    name = b"".join(bytes([len(label)]) + label.encode() for label in SERVICE.split("."))
    return _HEAD.pack(number, 0, 1, 0, 0, 0) + name + b"\0" + struct.pack("!HH", _PTR, _IN)


def announced_in(datagram: bytes, number: int) -> list[Announced]:
    """What a datagram announces in answer to the question of that number; nothing where it is no such answer."""
    try:
        records = list(_records(datagram[:MOST_BYTES], number))
        found = [_cluster(datagram, records, record) for record in records if record.kind == _SRV]
    except (struct.error, IndexError, ValueError):
        return []
    return [each for each in found if each is not None]


def _records(datagram: bytes, number: int) -> Iterator[_Record]:
    told, flags, num_questions, *counts = _HEAD.unpack_from(datagram)
    if told != number or not flags & _ANSWER or num_questions > MOST_RECORDS or sum(counts) > MOST_RECORDS:
        raise ValueError("no answer to that question")
    place = _HEAD.size
    for _ in range(num_questions):
        _, place = _name_at(datagram, place)
        place += 4
    for _ in range(sum(counts)):
        name, place = _name_at(datagram, place)
        kind, _, _, length = _RECORD.unpack_from(datagram, place)
        begin = place + _RECORD.size
        place = begin + length
        if place > len(datagram):
            raise ValueError("a record without its end")
        yield _Record(name, kind, begin, place)


def _name_at(datagram: bytes, place: int) -> tuple[tuple[bytes, ...], int]:
    """The labels of a name, in lower case, and where it ends; the rest of a name may stand elsewhere."""
    labels: list[bytes] = []
    end = 0
    for _ in range(_MOST_JUMPS):
        length = datagram[place]
        if length >= 0xC0:
            end = end or place + 2
            place = (length & 0x3F) << 8 | datagram[place + 1]
        elif length:
            labels.append(datagram[place + 1 : place + 1 + length].lower())
            place += 1 + length
        else:
            return tuple(labels), end or place + 1
    raise ValueError("a name without end")


def _cluster(datagram: bytes, records: list[_Record], service: _Record) -> Announced | None:
    instance, *kind = service.name
    if b".".join(kind) != SERVICE.encode():
        return None
    _, _, port = struct.unpack_from("!3H", datagram, service.begin)
    host, _ = _name_at(datagram, service.begin + 6)
    slots = [_slots(datagram[each.begin : each.end]) for each in records if each[:2] == (service.name, _TXT)]
    numbers = [datagram[each.begin : each.end] for each in records if each[:2] == (host, _A)]
    found = [address_of(str(ipaddress.IPv4Address(each)), port) for each in numbers]
    gates = tuple(gate for gate in found if gate is not None)
    return Announced(instance.decode("ascii"), frozenset().union(*slots), gates) if gates else None


def _slots(text: bytes) -> frozenset[int]:
    place = 0
    while place < len(text):
        each = text[place + 1 : place + 1 + text[place]]
        place += 1 + text[place]
        name, _, numbers = each.decode("ascii").partition("=")
        if name == SLOTS:
            found = [int(part) for part in numbers.split(",") if part.isdigit() and len(part) < 3]
            return frozenset(number for number in found if 0 < number <= MOST_SLOTS)
    return frozenset()
