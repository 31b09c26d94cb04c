"""The gate of a coordinator's host as a process: started once, found again, and ended."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until

from shardnet.coordinator import own_gate
from shardnet.coordinator.own_gate import Listening
from shardnet.errors import UsageError
from shardnet.gate.asking import enrol
from shardnet.gate.listening import MOST_TRIED
from shardnet.process.state_folder import StateFolder
from shardnet.source.trust import ask_gate
from shardnet.trust.payload import parse_payload
from shardnet.versions import OWN

LISTEN = Listening(("127.0.0.1:0",))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path / "state")
    yield folder
    own_gate.end_left(folder)
    folder.close()


def can_connect(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 10).close()
    except OSError:
        return False
    return True


def test_a_gate_outlives_its_coordinator_and_is_found_again(state: StateFolder) -> None:
    first = own_gate.start_or_find(state, LISTEN)
    (address,) = first.told["addresses"]
    again = own_gate.start_or_find(state, LISTEN)
    assert again.process == first.process and again.told == first.told
    assert can_connect(address)
    assert ask_gate(state.path, "invite")["addresses"] == [address]
    assert [each["name"] for each in ask_gate(state.path, "trusted")] == ["coordinator"]
    with pytest.raises(UsageError, match="No device with a certificate is called 'phone'"):
        ask_gate(state.path, "revoke", "phone")
    own_gate.end_left(state)
    assert first.has_ended and not can_connect(address)
    own_gate.end_left(state)


def test_a_gate_starts_beside_a_folder_of_its_name(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody is in ~/.local/state: Python took that folder for the package, and the gate ended."""
    (tmp_path / "shardnet").mkdir()
    monkeypatch.chdir(tmp_path)
    with own_gate.start_or_find(state, LISTEN) as gate:
        assert not gate.has_ended


def test_with_another_address_there_is_another_gate(state: StateFolder) -> None:
    first = own_gate.start_or_find(state, LISTEN)
    with own_gate.start_or_find(state, Listening(("localhost:0",))) as second:
        assert first.has_ended and not second.has_ended


@pytest.mark.parametrize("wire", [OWN.wire, OWN.wire + 1])
def test_a_gate_of_another_release_stays_only_where_it_links_hosts(
    state: StateFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: int
) -> None:
    """It was taken for one of this release, whatever it was."""
    program = (
        "import sys; from shardnet.gate import process; from shardnet.versions import Version; "
        f"process.OWN = Version({wire}, '0.0.9'); sys.exit(process.main())"
    )
    with monkeypatch.context() as patched:
        patched.setattr(own_gate, "GATE_COMMAND", (sys.executable, "-c", program))
        older = own_gate.start_or_find(state, LISTEN)
    invitation = parse_payload(ask_gate(state.path, "invite")["qr"])
    enrol(tmp_path / "phone", invitation, "phone", invitation.addresses)
    with own_gate.start(tmp_path / "phone") as phone:
        wait_until(lambda: own_gate._links_hosts(state.path))
        assert phone.child is not None and "cryptography" not in Path(f"/proc/{phone.child.pid}/maps").read_text()
        found = own_gate.start_or_find(state, LISTEN)
        assert (found.process == older.process) == (wire == OWN.wire)
    wait_until(lambda: not own_gate._links_hosts(state.path))
    own = own_gate.start_or_find(state, LISTEN)
    assert own.process != older.process and older.has_ended
    assert own_gate.start_or_find(state, LISTEN).process == own.process


def test_why_a_gate_ended_is_not_what_an_earlier_one_has_said(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = state.path / own_gate.LOG
    log.write_text("12:00:00 the disk was full\n")
    monkeypatch.setattr(own_gate, "GATE_COMMAND", (sys.executable, "-c", "pass"))
    with pytest.raises(UsageError, match=r"^The gate of this host has ended\.$"):
        own_gate.start_or_find(state, LISTEN)
    assert log.read_text().startswith("12:00:00 the disk was full\n")


def test_a_port_in_use_is_one_sentence(state: StateFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"Cannot listen on '{endpoint}': Address already in use. Choose another"):
            own_gate.start_or_find(state, Listening((endpoint,)))
    for wrong in ("", "nowhere", "127.0.0.1:99999", "192.0.2.1:80"):
        with pytest.raises(UsageError, match="listen"):
            own_gate.start_or_find(state, Listening((wrong,)))
    with pytest.raises(UsageError, match="open to this machine only"):
        ask_gate(state.path, "invite")


def test_where_nobody_has_named_a_port_the_next_free_one_does_and_is_kept(state: StateFolder) -> None:
    """Also when the other one is free again: machines that have joined dial the port that they were told."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = Listening((f"127.0.0.1:{port}",), or_next=True)
        with own_gate.start_or_find(state, wanted) as gate:
            (address,) = gate.told["addresses"]
            assert 0 < int(address.rpartition(":")[2]) - port <= MOST_TRIED
    with own_gate.start_or_find(state, wanted) as gate:
        assert gate.told["addresses"] == [address]
    with own_gate.start_or_find(state, Listening(wanted.endpoints)) as gate:
        assert gate.told["addresses"] == [f"127.0.0.1:{port}"]
