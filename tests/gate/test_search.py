"""The coordinator's gate has moved, and a host that nobody can call finds it: by the local network, which is real
multicast, or by another host."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import wait_until
from two_hosts import Hosts

from shardnet.discovery.announcing import Announcer
from shardnet.discovery.datagrams import Announced
from shardnet.gate import search
from shardnet.trust.addresses import Address

NEAR = "127.0.0.1"


def announce(what: Announced, ends: ExitStack) -> None:
    announcer = Announcer(interfaces=[NEAR])
    ends.callback(announcer.close)
    announcer.tell(what)


def test_a_gate_that_has_moved_is_found_and_who_only_says_to_be_it_is_not_believed(tmp_path: Path) -> None:
    with ExitStack() as ends:
        hosts = Hosts(tmp_path, ends)
        phone = hosts.join("phone", can_be_dialled=False)
        wait_until(lambda: "linked" in phone.said)
        before = phone.outpost.session()
        hosts.on_loop(hosts.move)
        there = Announced(phone.identity.cluster_id, frozenset(), hosts.gates)
        announce(there._replace(gates=(Address(NEAR, 1),)), ends)
        announce(there, ends)
        wait_until(lambda: phone.outpost.identity.gates[0] == hosts.gates[0])
        assert phone.outpost.session() is before, "what it carried goes on"
        assert Address(NEAR, 1) not in phone.outpost.identity.gates


def test_a_gate_that_has_moved_is_found_by_a_host_that_it_could_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts that changed their addresses at the same time found each other by the local network only."""
    monkeypatch.setattr(search, "EVERY_S", 1.0)
    with ExitStack() as ends:
        hosts = Hosts(tmp_path, ends)
        phone, tablet = hosts.join("phone", can_be_dialled=False), hosts.join("tablet")
        wait_until(lambda: phone.outpost._links._hosts.addresses.get("tablet"))
        before = phone.outpost.session()
        hosts.on_loop(hosts.move)
        wait_until(lambda: phone.outpost.identity.gates[0] == hosts.gates[0])
        wait_until(lambda: tablet.outpost.identity.gates[0] == hosts.gates[0])
        assert phone.outpost.session() is before, "what it carried goes on"
        wait_until(lambda: before.is_attached)
        wait_until(lambda: {each.peer for each in phone.outpost._meeting.sessions} == {"coordinator"})
