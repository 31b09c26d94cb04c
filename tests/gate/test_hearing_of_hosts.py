"""What the coordinator's gate tells other hosts of each other, and of whom they must refuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from processes import wait_until
from two_hosts import Hosts

from shardnet.gate import outpost
from shardnet.gate.calling import MOST_CALL_BYTES
from shardnet.gate.destinations import HOSTS, written
from shardnet.gate.hosts import pack_addresses, unpack_hosts
from shardnet.gate.switchboard import MOST_OF_ONE
from shardnet.trust.addresses import Address
from shardnet.trust.register import MOST_ENTRIES, Entry, Register
from shardnet.tunnel.forward import open_reader_writer

SERIAL = 2**159


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as ends:
        yield Hosts(tmp_path, ends)


def revoke_many(hosts: Hosts, count: int) -> None:
    """So many certificates of a host that has gone."""
    now_s = time.time()
    old = (Entry(SERIAL + number, "old", b"key", now_s, now_s + 1e6, now_s) for number in range(count))
    kept = (entry for entry in hosts.admission._register.entries if entry.name != "old")
    hosts.admission._register = Register((*kept, *old))


def test_all_hear_of_all_that_are_revoked(hosts: Hosts) -> None:
    """Of more than a thousand nobody heard, and of no other hosts either: the line was longer than readers took."""
    phone = hosts.join("phone")
    wait_until(lambda: "phone" in hosts.hub.hosts())
    last = SERIAL + MOST_ENTRIES - 10

    async def revoke() -> None:
        revoke_many(hosts, MOST_ENTRIES - 9)
        hosts.hub.end_links("old", "shut out")

    hosts.on_loop(revoke)
    wait_until(lambda: not phone.outpost._links.counts(last))
    assert phone.said == ["linked"]


def test_who_does_not_listen_is_told_the_last_when_it_listens_again(hosts: Hosts) -> None:
    """All that it was told while it did not once waited for it, without a limit."""
    phone = hosts.join("phone")
    wait_until(lambda: phone.said == ["linked"])

    async def listen_late() -> None:
        reader, writer = open_reader_writer(phone.outpost.session(), written(HOSTS))
        writer.write(pack_addresses([]))
        await reader.readline()
        writer.transport.pause_reading()
        (session,) = hosts.hub._meeting.sessions
        revoke_many(hosts, 500)
        for _ in range(100):
            hosts.hub.end_links("old", "shut out")
            await asyncio.sleep(0)
        assert max(stream.get_write_buffer_size() for stream in session._streams.values()) < 2**17
        revoke_many(hosts, 501)
        hosts.hub.end_links("old", "shut out")
        writer.transport.resume_reading()
        while len(unpack_hosts(await reader.readline()).revoked) < 501:
            pass

    hosts.on_loop(listen_late)


def test_a_host_that_hears_no_more_of_the_others_asks_again(hosts: Hosts) -> None:
    """It stayed linked, and never heard again of who was shut out."""
    phone = hosts.join("phone")
    switchboard = hosts.hub._switchboard
    wait_until(lambda: "phone" in switchboard.addresses)

    async def hang_up() -> None:
        (line,) = switchboard._lines
        line.hang_up()
        while "phone" in switchboard.addresses:
            await asyncio.sleep(0.001)

    hosts.on_loop(hang_up)
    wait_until(lambda: "phone" in switchboard.addresses)

    async def revoke() -> None:
        revoke_many(hosts, 1)
        hosts.hub.end_links("old", "shut out")

    hosts.on_loop(revoke)
    wait_until(lambda: not phone.outpost._links.counts(SERIAL))
    assert phone.said[0] == "linked" and len(phone.said) == 2


def test_one_host_cannot_have_all_others_told_the_same_again_and_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of ten thousand lines in one message was told to everybody: minutes in which the gate carried nothing."""
    phone = hosts.join("phone")
    switchboard = hosts.hub._switchboard
    wait_until(lambda: "phone" in switchboard.addresses)
    told: list[None] = []
    tell = switchboard.tell
    monkeypatch.setattr(switchboard, "tell", lambda: told.append(tell()))

    async def flood() -> None:
        reader, writer = open_reader_writer(phone.outpost.session(), written(HOSTS))
        writer.write(b"[]\n" * 5000)
        await reader.readline()
        writer.transport.abort()

    hosts.on_loop(flood)
    assert 0 < len(told) < 10


def test_one_host_has_few_streams_on_which_it_says_little(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a thousand could have the gate keep a mebibyte, and was told all that there is."""
    monkeypatch.setattr(outpost, "AGAIN_S", 1000.0)  # that of the host's gate is not opened again meanwhile
    phone = hosts.join("phone")
    switchboard = hosts.hub._switchboard
    wait_until(lambda: "phone" in switchboard.addresses)

    async def crowd() -> None:
        opened = [open_reader_writer(phone.outpost.session(), written(HOSTS)) for _ in range(MOST_OF_ONE)]
        readers = [reader for reader, _ in opened]
        for _, writer in opened:
            writer.write(pack_addresses([]))
        for reader in readers:
            await reader.readline()
        assert len(switchboard._lines) == MOST_OF_ONE, "that of its gate has made room"
        opened[0][1].write(b"[" * (MOST_CALL_BYTES + 1))
        with suppress(ConnectionError):
            while await readers[0].readline():
                pass
        for _, writer in opened:
            writer.transport.abort()

    hosts.on_loop(crowd)


def test_an_address_that_was_typed_is_known_however_often_the_coordinator_moves(hosts: Hosts) -> None:
    """Each of its own pushed one out: who had come by the router's did not find it from abroad later."""
    phone = hosts.join("phone")
    wait_until(lambda: "linked" in phone.said)
    typed = Address("home.example", 29500)

    async def move() -> None:
        phone.outpost.know(replace(phone.outpost.identity, gates=(typed, *hosts.gates)))
        phone.outpost._rota.note(hosts.gates[0])
        for number in range(20):
            phone.outpost._know_gates([Address(f"10.0.{number}.{host}", 29500) for host in range(1, 3)])
        assert phone.outpost.identity.gates[:3] == (hosts.gates[0], *phone.outpost._told)
        assert typed in phone.outpost.identity.gates
        phone.outpost._know_gates([Address(f"10.1.0.{host}", 29500) for host in range(1, 30)])
        assert {typed, *hosts.gates} < set(phone.outpost.identity.gates)
        assert phone.outpost._rota.reached == hosts.gates[0]

    hosts.on_loop(move)
