"""What the coordinator's gate tells other hosts of each other, and of whom they must refuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import wait_until
from two_hosts import Hosts

from shardnet.gate.destinations import HOSTS, written
from shardnet.gate.hosts import pack_addresses, unpack_hosts
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
    wait_until(lambda: "phone" in hosts.hub.hosts())

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
