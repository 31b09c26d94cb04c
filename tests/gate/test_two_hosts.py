"""Members of several hosts reach each other at the same port everywhere, through the gates."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from two_hosts import NEAR, Agent, Host, Hosts, Visitor, greeted_at

from shardnet.errors import JoinFailed, OtherVersion, PortTaken
from shardnet.gate import outpost
from shardnet.gate.arrivals import MOST_SHAKING
from shardnet.gate.hosts import Hosts as KnownHosts
from shardnet.gate.hosts import pack_addresses
from shardnet.transport.door.knocking import read_exactly
from shardnet.transport.door.membership import Membership
from shardnet.trust.addresses import Address
from shardnet.trust.contexts import CALL, client_context, server_mark
from shardnet.trust.identity_files import identity_in
from shardnet.tunnel import arrival, greeting
from shardnet.tunnel.forward import open_reader_writer
from shardnet.tunnel.session import LinkSession
from shardnet.versions import OURS, OWN, Version


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as ends:
        yield ends


@pytest.fixture
def hosts(tmp_path: Path, ends: ExitStack) -> Hosts:
    return Hosts(tmp_path, ends)


def near(hosts: Hosts, name: str) -> Visitor:
    return Visitor(name, hosts.door.endpoint, Agent(name, NEAR, hosts.ends), hosts.ends)


def far(hosts: Hosts, host: Host, name: str = "") -> Visitor:
    name = name or host.identity.name
    return Visitor(name, host.endpoint, Agent(name, host.loopback, hosts.ends), hosts.ends)


@pytest.mark.parametrize(
    ("phone_can", "tablet_can"), [(True, True), (False, True), (False, False)], ids=["straight", "one way", "relayed"]
)
def test_members_of_three_hosts_reach_each_other(
    hosts: Hosts, phone_can: bool, tablet_can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    relayed: list[Any] = []
    relay = hosts.hub._relay
    monkeypatch.setattr(hosts.hub, "_relay", lambda *wanted: relayed.append(wanted) or relay(*wanted))
    phone, tablet = hosts.join("phone", can_be_dialled=phone_can), hosts.join("tablet", can_be_dialled=tablet_can)
    first = near(hosts, "first")
    second, third = far(hosts, phone), far(hosts, tablet)
    fourth = near(hosts, "fourth")
    visitors = (first, second, third, fourth)
    for visitor in visitors:
        visitor.membership.sync()
        assert sorted(visitor.names.values()) == ["first", "fourth", "phone", "tablet"]
    for visitor in visitors:
        for loopback in (NEAR, phone.loopback, tablet.loopback):
            assert greeted_at(loopback, visitor.agent.port) == visitor.agent.name
    assert phone.said == tablet.said == ["linked"]
    assert phone_can or tablet_can or relayed
    assert not (phone_can and tablet_can and relayed)


def test_who_has_left_is_not_listened_for_any_more(hosts: Hosts) -> None:
    phone = hosts.join("phone")
    first, second = near(hosts, "first"), far(hosts, phone)
    assert greeted_at(phone.loopback, first.agent.port) == "first"
    first.membership.leave()
    wait_until(lambda: second.names == {second.id: "phone"})
    wait_until(lambda: greeted_at(phone.loopback, first.agent.port) == "")
    second.membership.close()
    wait_until(lambda: greeted_at(NEAR, second.agent.port) == "")


def test_a_port_that_is_taken_on_another_host_is_refused(hosts: Hosts) -> None:
    phone = hosts.join("phone")
    second = far(hosts, phone)
    agent = Agent("first", NEAR, hosts.ends)
    with socket.create_server((phone.loopback, agent.port)), pytest.raises(PortTaken, match="on another host"):
        Visitor("first", hosts.door.endpoint, agent, hosts.ends)
    assert any("is taken on this host, so that first is not reached" in each for each in phone.said)
    wait_until(lambda: second.names == {second.id: "phone"})
    again = near(hosts, "first")
    second.membership.sync()
    assert greeted_at(phone.loopback, again.agent.port) == "first"


def test_a_port_that_is_taken_on_the_coordinators_host_is_refused(hosts: Hosts) -> None:
    phone = hosts.join("phone")
    agent = Agent("phone", phone.loopback, hosts.ends)
    with socket.create_server((NEAR, agent.port)), pytest.raises(JoinFailed, match="is taken"):
        Visitor("phone", phone.endpoint, agent, hosts.ends)


def test_a_host_where_the_port_of_an_older_member_is_taken_stays_out(hosts: Hosts) -> None:
    phone = hosts.join("phone")
    first = near(hosts, "first")
    with socket.create_server((phone.loopback, first.agent.port)):
        with pytest.raises(JoinFailed, match=r"first \(uv://127.0.0.1:\d+\) has a port that is taken on this host"):
            far(hosts, phone)
    assert not first.struck.is_set()
    far(hosts, phone)
    assert greeted_at(phone.loopback, first.agent.port) == "first"


def test_no_other_port_of_a_host_is_reached(hosts: Hosts) -> None:
    phone = hosts.join("phone")
    member = far(hosts, phone)
    stranger = Agent("stranger", phone.loopback, hosts.ends)
    elsewhere = near(hosts, "elsewhere")
    secret = Agent("secret", NEAR, hosts.ends)

    async def said_at(session: LinkSession, destination: str) -> bytes:
        reader, writer = open_reader_writer(session, destination.encode())
        try:
            return await asyncio.wait_for(reader.read(100), 20)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    to_phone, from_phone = hosts.hub._session_to("phone"), phone.outpost.session()
    for session, destination, said in (
        (to_phone, f"member phone {member.agent.port}", b"phone"),
        (to_phone, f"member phone {stranger.port}", b""),
        (to_phone, f"member coordinator {elsewhere.agent.port}", b""),
        (to_phone, "door", b""),
        (from_phone, f"member coordinator {elsewhere.agent.port}", b"elsewhere"),
        (from_phone, f"member phone {member.agent.port}", b""),
        (from_phone, "gate phone", b""),
        (from_phone, "gate nobody", b""),
        (from_phone, f"member coordinator {secret.port}", b""),
        (from_phone, "member nobody 80", b""),
        (from_phone, "../../etc/passwd", b""),
        (from_phone, "gate", b""),
    ):
        assert hosts.on_loop(said_at, session, destination) == said, destination


def test_the_port_of_who_has_left_or_was_not_let_in_is_not_reached_any_more(hosts: Hosts) -> None:
    """It may be another program's by then; nobody told the gate of a host from which no member is left."""
    phone = hosts.join("phone")
    member = far(hosts, phone)
    assert greeted_at(NEAR, member.agent.port) == "phone"
    member.membership.close()
    wait_until(lambda: not phone.outpost.ports.is_own(member.agent.port))
    agent = Agent("other", phone.loopback, hosts.ends)
    with pytest.raises(JoinFailed, match="was let in as phone"):
        Visitor("other", phone.endpoint, agent, hosts.ends)
    assert not phone.outpost.ports.is_own(agent.port)
    again = far(hosts, phone)
    assert greeted_at(NEAR, again.agent.port) == "phone"


@pytest.mark.parametrize("can_be_dialled", [True, False], ids=["straight", "relayed"])
def test_who_is_shut_out_reaches_no_host_any_more(hosts: Hosts, can_be_dialled: bool) -> None:
    phone = hosts.join("phone", can_be_dialled=can_be_dialled)
    tablet = hosts.join("tablet", can_be_dialled=can_be_dialled)
    second, third = far(hosts, phone), far(hosts, tablet)
    with socket.create_connection((phone.loopback, third.agent.port), 20) as connection:
        assert connection.recv(100) == b"tablet"

        async def shut_out() -> None:
            hosts.admission.revoke("phone", time.time())
            hosts.hub.end_links("phone", "shut out")

        assert "phone" in {session.peer for session in tablet.outpost._meeting.sessions}
        hosts.on_loop(shut_out)
        wait_until(lambda: "phone" not in {session.peer for session in tablet.outpost._meeting.sessions})
    wait_until(lambda: list(third.names.values()) == ["tablet"])
    assert greeted_at(phone.loopback, third.agent.port) == ""
    assert second.membership.endpoint == phone.endpoint


def test_members_of_other_hosts_are_reached_as_before_when_the_coordinator_was_started_again(hosts: Hosts) -> None:
    """The gate once forgot all ports when the door was gone, and the door tells only what has changed."""
    phone, tablet = hosts.join("phone"), hosts.join("tablet")
    first, second, third = near(hosts, "first"), far(hosts, phone), far(hosts, tablet)
    hosts.restart_door()
    for visitor in (first, second, third):
        wait_until(lambda visitor=visitor: visitor.door == ["gone", "back"])  # type: ignore[misc]
    fourth = near(hosts, "fourth")
    for visitor in (first, second, third, fourth):
        visitor.membership.sync()
        assert not visitor.struck.is_set()
        for loopback in (NEAR, phone.loopback, tablet.loopback):
            assert greeted_at(loopback, visitor.agent.port) == visitor.agent.name


def test_hosts_find_a_coordinator_that_has_moved(hosts: Hosts) -> None:
    """Its gate tells them where it is; the link session goes on, and where it was found is written down."""
    phone = hosts.join("phone")
    first, second = near(hosts, "first"), far(hosts, phone)
    with socket.create_connection((phone.loopback, first.agent.port), 20) as connection:
        assert connection.recv(100) == b"first"
        wait_until(hosts.hub._switchboard.dialled_at.__len__)
        for _ in range(2):
            before = hosts.gates
            hosts.on_loop(hosts.move)
            assert hosts.gates != before
            connection.sendall(b"echo")
            assert connection.recv(100) == b"echo"
    assert phone.said == ["linked"] and not second.struck.is_set()
    wait_until(lambda: identity_in(phone.identity.folder).gates[:1] == hosts.gates)  # type: ignore[union-attr]
    assert greeted_at(NEAR, second.agent.port) == "phone"


def test_a_way_through_the_coordinators_gate_is_left_for_a_straight_one(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a host was dialled straight in vain, it was reached the long way for good."""
    phone, tablet = hosts.join("phone"), hosts.join("tablet")
    second, third = far(hosts, phone), far(hosts, tablet)
    wait_until(lambda: len(hosts.hub._switchboard.dialled_at) == 2)
    known = KnownHosts({name: tuple(each) for name, each in hosts.hub._switchboard.dialled_at.items()})
    links = phone.outpost._links
    monkeypatch.setattr(links, "_hosts", KnownHosts({}))
    with socket.create_connection((phone.loopback, third.agent.port), 20) as connection:
        assert connection.recv(100) == b"tablet"
        (session,) = [each for each in phone.outpost._meeting.sessions if each.peer == "tablet"]
        assert session.vigil.is_carried

        async def hear() -> None:
            links.hear(known)

        hosts.on_loop(hear)
        wait_until(lambda: not session.vigil.is_carried)
        connection.sendall(b"echo")
        assert connection.recv(100) == b"echo"
    assert session.counts.num_connections == 2 and not second.struck.is_set()


def test_nobody_but_the_coordinator_says_where_its_gate_is(hosts: Hosts) -> None:
    phone, tablet = hosts.join("phone"), hosts.join("tablet")
    wait_until(lambda: len(hosts.hub._switchboard.dialled_at) == 2)
    (address,) = hosts.hub._switchboard.dialled_at["phone"]

    async def say() -> bytes:
        context = client_context(tablet.identity, CALL)
        mark = server_mark(tablet.identity, "phone")
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=mark)
        writer.write(pack_addresses([Address("192.0.2.1", 1)]))
        said = b""
        with suppress(OSError):
            said = await reader.read()
        writer.transport.abort()
        return said

    assert hosts.on_loop(say) == b""
    wait_until(lambda: "127.0.0.1: tablet passes for the coordinator" in phone.said)
    assert phone.outpost.identity.gates == hosts.gates


def test_a_link_that_ends_takes_its_members_with_it_and_they_come_back(hosts: Hosts) -> None:
    phone = hosts.join("phone")
    first, second = near(hosts, "first"), far(hosts, phone)

    async def end() -> None:
        hosts.hub.end_links("phone", "for a test")

    hosts.on_loop(end)
    wait_until(lambda: sorted(first.names.values()) == ["first"])
    second.membership.close()
    again = far(hosts, phone)
    assert greeted_at(NEAR, again.agent.port) == "phone"


def test_a_host_of_another_version_is_refused_by_name_on_both_sides(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is each member there, by its own door: somebody waited at it who never heard why."""
    theirs = Version(OURS.wire + 1, "0.9.3")
    monkeypatch.setattr(greeting, "OURS", OURS._replace(wire=theirs.wire))  # of who is dialled, as is the next
    monkeypatch.setattr(arrival, "OWN", theirs)
    phone = hosts.join("phone")
    why = rf"runs shardnet 0\.9\.3 \(wire format {theirs.wire}\); this is {OWN.name} \(wire format {OURS.wire}\)"
    wait_until(lambda: phone.said)
    assert re.match(f"The host coordinator {why}", phone.said[0])
    assert hosts.said[0].startswith("phone: was refused: The host phone runs ")
    with pytest.raises(OtherVersion, match=f"^The cluster at {phone.endpoint} {why}"):
        Membership(phone.endpoint, timeout_s=20)


def test_what_is_said_before_there_is_a_link_is_not_lost(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's Python (3.11.2) reads on where a protocol pauses at once: the first words between two devices, which
    their gates were not linked for yet, were lost there, and both waited for ever."""

    def read_on(transport: Any, file: int, callback: Any, *args: Any) -> None:
        if not transport.is_closing():
            transport._loop._add_reader(file, callback, *args)

    monkeypatch.setattr(asyncio.selector_events._SelectorTransport, "_add_reader", read_on)  # type: ignore[attr-defined]
    phone, tablet = hosts.join("phone"), hosts.join("tablet")
    second, third = far(hosts, phone), far(hosts, tablet)
    second.membership.sync()
    with socket.create_connection((phone.loopback, third.agent.port), 20) as connection:
        connection.sendall(b"early")
        expected = b"tabletearly"
        assert read_exactly(connection, len(expected)) == expected


def test_a_member_that_dials_another_one_often_leaves_room_on_the_link_of_that(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handshakes that are not gone on with, through the coordinator's gate, took all the streams that there are."""
    monkeypatch.setattr(outpost, "HANDSHAKE_S", 1000.0)
    phone, tablet = hosts.join("phone", can_be_dialled=False), hosts.join("tablet")
    wait_until(lambda: phone.outpost._links.has_heard and tablet.outpost._links.has_heard)

    async def crowd() -> None:
        before = phone.outpost.session().num_streams
        for _ in range(3 * MOST_SHAKING):
            tablet.outpost.session().open_stream(asyncio.Protocol, b"gate phone")
        while len(tuple(phone.outpost._shaking)) < MOST_SHAKING:
            await asyncio.sleep(0.001)
        while tablet.outpost.session().num_streams > MOST_SHAKING + 2:
            await asyncio.sleep(0.001)
        assert phone.outpost.session().num_streams <= before + MOST_SHAKING

    hosts.on_loop(crowd)
    second, third = far(hosts, phone), far(hosts, tablet)
    second.membership.sync()
    assert greeted_at(tablet.loopback, second.agent.port) == "phone"
    assert third.membership.endpoint == tablet.endpoint
