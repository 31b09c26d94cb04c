"""Links between hosts other than the coordinator's: one at a time, straight if possible, and none with who is out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from processes import wait_until
from two_hosts import Hosts

from shardnet.gate.hosts import Hosts as Known
from shardnet.gate.links import Links
from shardnet.trust.peers import Peer


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as ends:
        yield Hosts(tmp_path, ends)


def links_of_phone(hosts: Hosts, *, tablet_can_be_dialled: bool = True) -> Links:
    """And there is a tablet."""
    phone = hosts.join("phone")
    hosts.join("tablet", can_be_dialled=tablet_can_be_dialled)
    links = phone.outpost._links
    wait_until(lambda: set(links._hosts.addresses) == {"phone", "tablet"})
    return links


def test_who_came_with_a_certificate_that_is_revoked_is_shut_out_whatever_else_was_shown_under_its_name(
    hosts: Hosts,
) -> None:
    """Of each name only the last certificate was known: a link that went back to an earlier one lasted."""
    links = links_of_phone(hosts)

    async def main() -> None:
        session = await links.session_to("tablet")
        (serial,) = links._names
        links.note(Peer("tablet", serial + 1, 0.0))
        links.hear(Known(links._hosts.addresses, frozenset({serial})))
        assert session.why_over == "shut out"

    hosts.on_loop(main)


def test_a_link_that_has_lost_its_connection_is_not_begun_a_second_time(hosts: Hosts) -> None:
    """Each loss left another link session behind, until the other gate took no more of them."""
    links = links_of_phone(hosts)

    async def main() -> None:
        session = await links.session_to("tablet")
        for _ in range(3):
            session.detach("for a test")
            assert await links.session_to("tablet") is session
            while not session.is_attached:
                await asyncio.sleep(0.001)
        assert [each for each in links._meeting.sessions if each.peer == "tablet"] == [session]

    hosts.on_loop(main)


def test_an_address_that_is_heard_while_a_host_is_dialled_the_long_way_is_not_missed(hosts: Hosts) -> None:
    """The link then went through the coordinator's gate for good."""
    links = links_of_phone(hosts)

    async def main() -> None:
        known, links._hosts = links._hosts, Known({})
        dialling = asyncio.ensure_future(links.session_to("tablet"))
        while not any(each.peer == "tablet" for each in links._meeting.sessions):
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        links.hear(known)
        session = await dialling
        while session.vigil.is_carried:
            await asyncio.sleep(0.001)

    hosts.on_loop(main)


def test_a_full_link_with_the_coordinator_is_waited_for(hosts: Hosts) -> None:
    """It was an error at once, and the end of a link that was to be dialled again."""
    links = links_of_phone(hosts, tablet_can_be_dialled=False)

    async def main() -> None:
        hub = links._hub()
        limits, hub._limits = hub._limits, replace(hub._limits, most_streams=0)
        with pytest.raises(OSError, match="connections to coordinator already"):
            await links._through_hub("tablet")
        dialling = asyncio.ensure_future(links.session_to("tablet"))
        await asyncio.sleep(0)
        hub._limits = limits
        assert (await dialling).is_attached

    hosts.on_loop(main)
