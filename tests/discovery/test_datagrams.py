"""What answers the question for clusters, as bytes that anybody may have sent."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import DNSIncoming

from shardnet.discovery.datagrams import Announced, announced_in, question
from shardnet.trust.addresses import Address

NUMBER = 4711
ID = "00112233445566778899aabbccddeeff"
HERE = Announced(ID, frozenset({7, 12}), (Address("192.168.1.5", 29500), Address("10.0.0.7", 29500)))


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"


def record(of: bytes, kind: int, content: bytes) -> bytes:
    return of + struct.pack("!HHIH", kind, 1, 10, len(content)) + content


def answer(slots: bytes = b"slots=7,12", number: int = NUMBER, port: int = 29500, instance: str = ID) -> bytes:
    """As a responder sends it that repeats no name: it points at where the name stands."""
    asked = name("_shardnet._tcp.local") + struct.pack("!HH", 12, 1)
    head = struct.pack("!6H", number, 0x8400, 1, 1, 0, 4)
    service = b"\xc0\x0c"
    pointer = record(service, 12, bytes([len(instance)]) + instance.encode() + service)
    label = struct.pack("!H", 0xC000 | len(head) + len(asked) + len(service) + 10)
    host = name("SHARDNET-x.local")
    return b"".join(
        [
            *(head, asked, pointer),
            record(label, 33, struct.pack("!3H", 0, 0, port) + host),
            record(label, 16, b"\x03v=1" + bytes([len(slots)]) + slots),
            record(name("shardnet-X.local"), 1, bytes([192, 168, 1, 5])),
            record(name("shardnet-x.local"), 1, bytes([10, 0, 0, 7])),
        ]
    )


def test_the_question_is_one_that_others_read() -> None:
    read = DNSIncoming(question(NUMBER))
    (asked,) = read.questions
    assert read.is_query() and read.id == NUMBER
    assert (asked.name, asked.type) == ("_shardnet._tcp.local.", 12)


def test_an_announcement_says_where_a_cluster_is_and_which_codes_are_open() -> None:
    assert announced_in(answer(), NUMBER) == [HERE]
    assert announced_in(answer(slots=b"slots="), NUMBER) == [HERE._replace(slots=frozenset())]
    assert announced_in(answer(slots=b"slots=0,7,100,x,,12"), NUMBER) == [HERE]


LEADS_TO_ITSELF = struct.pack("!6H", NUMBER, 0x8400, 0, 1, 0, 0) + b"\xc0\x0c" * 40
ELSE = (question(NUMBER), answer(number=NUMBER + 1), answer()[:-1], answer(port=0), answer(instance=""))


@pytest.mark.parametrize(
    "datagram",
    [b"", *ELSE, LEADS_TO_ITSELF],
    ids=["nothing", "a question", "of another question", "cut", "no port", "no name", "a name that leads to itself"],
)
def test_what_is_no_announcement_is_passed_over(datagram: bytes) -> None:
    assert announced_in(datagram, NUMBER) == []


@given(st.binary(max_size=200))
def test_random_bytes_are_passed_over(content: bytes) -> None:
    assert announced_in(struct.pack("!HH", NUMBER, 0x8400) + content, NUMBER) == []


@given(st.integers(0, len(answer()) - 1), st.integers(0, 255))
def test_of_a_changed_byte_comes_nothing_or_an_announcement(place: int, value: int) -> None:
    changed = bytearray(answer())
    changed[place] = value
    for each in announced_in(bytes(changed), NUMBER):
        assert each.cluster.isascii() and each.gates and all(0 < slot < 100 for slot in each.slots)
