"""Who gets through a handshake, and who does not. All TLS here is real; see `trusted`."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from trusted import Home, Wire

from shardnet.process.state_folder import StateFolder
from shardnet.trust.authority import new_authority, request_for
from shardnet.trust.contexts import ENROL, LINK, client_context, enrolment_context, server_context, server_mark
from shardnet.trust.handshakes import reason_of
from shardnet.trust.identity import Identity
from shardnet.trust.identity_files import host_key, identity_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.peers import Peer, peer_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def phone(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return home.member(tmp_path_factory.mktemp("phone"), "phone")


def wire(server: Identity, client: Identity, dialled: str = COORDINATOR) -> Wire:
    return Wire(server_context(server), client_context(client), server_mark(client, dialled))


def shown(identity: Identity) -> Peer:
    return Peer(identity.name, identity.serial, identity.certificate.not_valid_after_utc.timestamp())


def refused(wire: Wire) -> str:
    """Why a handshake, or the first reading after it, comes to nothing."""
    with pytest.raises(ssl.SSLError) as error:
        wire.shake()
    return reason_of(error.value)


def test_members_know_each_other_by_name(home: Home, phone: Identity) -> None:
    pair = wire(home.identity, phone).shake()
    assert pair.server.version() == pair.client.version() == "TLSv1.3"
    assert peer_of(pair.client) == shown(home.identity)
    assert peer_of(pair.server) == shown(phone) and shown(phone).name == "phone"
    assert pair.server.selected_alpn_protocol() == pair.client.selected_alpn_protocol() == LINK
    assert pair.say(pair.client, b"hello") == b"hello"
    pair = wire(phone, home.identity, "phone").shake()
    assert peer_of(pair.client) == shown(phone)


def test_a_newcomer_gets_through_and_shows_nothing(home: Home) -> None:
    pair = Wire(server_context(home.identity), enrolment_context()).shake()
    assert peer_of(pair.server) is None
    assert pair.server.selected_alpn_protocol() == ENROL


def test_what_nobody_has_checked_names_nobody(home: Home) -> None:
    pair = Wire(server_context(home.identity), enrolment_context()).shake()
    with pytest.raises(ValueError, match="nobody has checked"):
        peer_of(pair.client)


def test_a_member_under_another_name_is_refused_in_the_handshake(home: Home, phone: Identity) -> None:
    """One that was stolen cannot pass for the coordinator, or for another phone."""
    assert "another host than the one that was dialled" in refused(wire(phone, home.identity, "tablet"))
    assert "another host than the one that was dialled" in refused(wire(phone, home.identity, COORDINATOR))
    assert "another host than the one that was dialled" in refused(wire(phone, home.identity, "PHONE"))


def test_whoever_dials_must_say_whom(home: Home, phone: Identity) -> None:
    """Python lets `wrap_bio` go without a name, and asyncio with it, and then checks none."""
    with pytest.raises(ValueError, match="say by server_hostname which member is dialled"):
        Wire(server_context(home.identity), client_context(phone))
    with pytest.raises(ValueError, match="server_hostname"), socket.socket() as unconnected:
        client_context(phone).wrap_socket(unconnected)


def test_no_name_goes_over_the_wire_in_clear(home: Home, phone: Identity) -> None:
    said: list[str | None] = []
    server = server_context(home.identity)
    server.sni_callback = lambda _connection, name, _context: said.append(name)
    Wire(server, client_context(phone), server_mark(phone, COORDINATOR)).shake()
    assert said == [None]


def test_a_foreign_authority_is_refused_on_both_sides(home: Home, phone: Identity, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    stranger = other.member(tmp_path / "stranger", "phone")
    dialled = str(server_mark(home.identity, COORDINATOR))
    assert "of another authority" in refused(Wire(server_context(other.identity), client_context(phone), dialled))
    unwary = client_context(stranger)
    unwary.check_hostname, unwary.verify_mode = False, ssl.CERT_NONE
    assert "of another authority" in refused(Wire(server_context(home.identity), unwary, dialled))


def test_an_authority_of_the_same_name_is_a_foreign_one(home: Home, tmp_path: Path) -> None:
    """A stranger can put any text into certificates, but not sign with the authority's key."""
    state = StateFolder(tmp_path)
    key = host_key(state)
    forged = new_authority(key, home.identity.cluster_id, time.time())
    certificate = forged.issue(request_for(key), "phone", time.time())
    state.write("host.pem", certificate.public_bytes(serialization.Encoding.PEM))
    stranger = identity_of(tmp_path, certificate, home.identity.authority, ())
    dialled = server_mark(stranger, COORDINATOR)
    pair = Wire(server_context(home.identity), client_context(stranger), dialled)
    assert "of another authority" in refused(pair)


@pytest.mark.parametrize(("shift_days", "said"), [(-100, "has expired"), (+2, "does not count yet")])
def test_times_are_looked_at_on_both_sides(home: Home, tmp_path: Path, shift_days: int, said: str) -> None:
    phone = home.member(tmp_path, f"phone{shift_days % 7}", time.time() + shift_days * 86400)
    assert said in refused(wire(home.identity, phone)) and "clocks" in refused(wire(home.identity, phone))
    assert said in refused(wire(phone, home.identity, phone.name))


def test_a_client_hears_afterwards_that_its_certificate_has_expired(home: Home, tmp_path: Path) -> None:
    pair = wire(home.identity, home.member(tmp_path, "old", time.time() - 100 * 86400))
    with pytest.raises(ssl.SSLError):
        pair.shake()
    with pytest.raises(ssl.SSLError) as error:
        pair.client.read(1)
    assert "this host's certificate has expired" in reason_of(error.value)


def test_a_revoked_one_is_known_by_its_serial_number(home: Home, tmp_path: Path) -> None:
    phone = home.member(tmp_path, "stolen")
    peer = peer_of(wire(home.identity, phone).shake().server)
    assert peer is not None and home.admission.counts(peer.serial)
    assert home.admission.revoke("stolen", time.time()) == {phone.serial} == home.admission.revoked()
    peer = peer_of(wire(home.identity, phone).shake().server)
    assert peer is not None and not home.admission.counts(peer.serial)


def test_other_versions_of_tls_are_refused(home: Home, phone: Identity) -> None:
    for identity in (home.identity, phone):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert "does not speak TLS 1.3" in refused(Wire(server_context(identity), old))
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        old.load_cert_chain(identity.certificates_file, identity.key_file)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError) as error:
            Wire(old, client_context(phone), server_mark(phone, identity.name)).shake()
        assert "TLS" in reason_of(error.value)


def test_no_session_is_resumed(home: Home, phone: Identity) -> None:
    """With a ticket, a certificate that was revoked meanwhile would come back without being shown."""
    pair = wire(home.identity, phone).shake()
    assert pair.say(pair.server, b"first words") == b"first words"
    session = pair.client.session
    assert session is None or not session.has_ticket
    again = client_context(phone)
    second = Wire(server_context(home.identity), again, server_mark(phone, COORDINATOR)).shake()
    assert not second.client.session_reused and not second.server.session_reused


def test_random_bytes_are_no_handshake(home: Home) -> None:
    half = b"\x16\x03\x01\xff\xff" + b"a" * 100
    for content in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), half, b"\x80\x2e\x01\x00\x02", b""):
        incoming = ssl.MemoryBIO()
        server = server_context(home.identity).wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        incoming.write(content)
        incoming.write_eof()
        with pytest.raises(ssl.SSLError) as error:
            server.do_handshake()
        assert "the other side" in reason_of(error.value)
