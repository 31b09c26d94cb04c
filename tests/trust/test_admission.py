"""Who is given a certificate, what is kept of it, and what happens to files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from trusted import GATES, Home

from shardnet.errors import ClusterError, UsageError
from shardnet.process.state_folder import StateFolder
from shardnet.trust.admission import admission_in
from shardnet.trust.authority import BEFORE_S, LIFE_S, key_of_request, request_for
from shardnet.trust.certificates import covers, is_issued_by, name_of, read_certificate
from shardnet.trust.identity_files import host_key, identity_in, keep_identity, own_identity
from shardnet.trust.keys import own_key
from shardnet.trust.names import COORDINATOR
from shardnet.trust.refusals import Reason, Refused
from shardnet.trust.register import KEPT_S, MOST_ENTRIES, MOST_OF_ONE, Entry, Register
from shardnet.trust.register_file import file_of

NOW_S = 1_800_000_000.0
DER = serialization.Encoding.DER


def refused(reason: Reason) -> pytest.RaisesExc[Refused]:
    return pytest.RaisesExc(Refused, check=lambda error: error.reason is reason)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", NOW_S)


def test_an_authority_is_made_once(home: Home) -> None:
    before = home.admission.authority
    home.state.close()
    again = Home(home.state.path, NOW_S + 5)
    assert again.admission.authority.certificate == before.certificate
    assert again.admission.authority.fingerprint == before.fingerprint and len(before.fingerprint) == 32
    assert again.identity.certificate == home.identity.certificate
    modes = {file.name: file.stat().st_mode & 0o777 for file in home.state.path.iterdir()}
    assert set(modes.values()) == {0o600} and {"authority.key", "host.key", "register.json"} < set(modes)


def test_two_clusters_have_nothing_in_common(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other", NOW_S)
    assert other.identity.cluster_id != home.identity.cluster_id
    assert other.identity.authority_key != home.identity.authority_key
    assert not is_issued_by(other.identity.certificate, home.identity.authority)


def test_a_certificate_says_what_the_authority_says(home: Home) -> None:
    """Whatever the request asks for: another name, the rights of an authority."""
    key = new_key()
    wish = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, COORDINATOR)])
    )
    wish = wish.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = home.admission.grant(wish.sign(key, hashes.SHA256()).public_bytes(DER), "phone", NOW_S)
    assert name_of(made) == "phone" and made.public_key() == key.public_key()
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert covers(made, NOW_S - BEFORE_S) and covers(made, NOW_S + LIFE_S - 1)
    assert not covers(made, NOW_S - BEFORE_S - 1) and not covers(made, NOW_S + LIFE_S)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {each._name for each in usage} == {"clientAuth", "serverAuth"}
    assert is_issued_by(made, home.identity.authority) and made.serial_number.bit_length() > 100


def test_only_who_has_a_key_gets_a_certificate_for_it(home: Home) -> None:
    request = bytearray(request_for(new_key()))
    request[-1] ^= 1
    strange: list[bytes] = [bytes(request), b"", b"\x30\x80", bytes(10**6)]
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        strange.append(made.public_bytes(DER))
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    strange.append(made.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(DER))
    for each in strange:
        with refused(Reason.NOT_UNDERSTOOD):
            home.admission.grant(each, "phone", NOW_S)
    assert [entry.name for entry in home.admission.live(NOW_S)] == [COORDINATOR]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6))
def test_a_changed_request_or_certificate_is_none(place: int, value: int, cut: int) -> None:
    request = bytearray(REQUEST)
    request[place % len(request)] = value
    if bytes(request) != REQUEST:
        with pytest.raises(ValueError):
            key_of_request(bytes(request))
    for content in (bytes(request), REQUEST[: cut % len(REQUEST)]):
        with pytest.raises(ValueError):
            read_certificate(content)


REQUEST = request_for(new_key())


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "phone\n", "-phone", "ph\u00f6ne", "a" * 64, COORDINATOR, "Coordinator", "a/b"]
)
def test_some_names_are_none(home: Home, name: str) -> None:
    with refused(Reason.BAD_NAME):
        home.admission.grant(REQUEST, name, NOW_S)


def test_a_name_belongs_to_one_key(home: Home) -> None:
    request = request_for(new_key())
    home.admission.grant(request, "phone", NOW_S)
    for taken in ("phone", "PHONE"):
        with refused(Reason.NAME_TAKEN):
            home.admission.grant(REQUEST, taken, NOW_S + 1)
    home.admission.grant(request, "phone", NOW_S + 2)  # it had not heard the answer
    home.admission.revoke("phone", NOW_S + 3)
    home.admission.grant(REQUEST, "phone", NOW_S + 4)


def test_a_name_is_free_when_its_certificate_has_expired(home: Home) -> None:
    home.admission.grant(request_for(new_key()), "phone", NOW_S)
    home.admission.grant(REQUEST, "phone", NOW_S + LIFE_S)


def test_a_certificate_is_renewed_for_the_same_name_and_key(home: Home) -> None:
    request = request_for(new_key())
    first = home.admission.grant(request, "phone", NOW_S)
    second = home.admission.renew(request, first.serial_number, NOW_S + 70 * 86400)
    assert name_of(second) == "phone" and covers(second, NOW_S + 100 * 86400)
    with refused(Reason.NOT_UNDERSTOOD):
        home.admission.renew(REQUEST, second.serial_number, NOW_S)
    with refused(Reason.KEY_REVOKED):
        home.admission.renew(request, 12345, NOW_S)
    assert home.admission.revoke("phone", NOW_S) == {first.serial_number, second.serial_number}
    with refused(Reason.KEY_REVOKED):
        home.admission.renew(request, second.serial_number, NOW_S)
    with refused(Reason.KEY_REVOKED):  # with another invitation, neither
        home.admission.grant(request, "phone", NOW_S)


def test_what_was_revoked_stays_so(home: Home) -> None:
    made = home.admission.grant(REQUEST, "phone", NOW_S)
    home.admission.revoke("phone", NOW_S)
    home.state.close()
    again = Home(home.state.path, NOW_S).admission
    assert not again.counts(made.serial_number) and again.revoked() == {made.serial_number}
    assert again.counts(home.identity.serial)


def test_a_certificate_that_the_register_does_not_know_does_not_count(home: Home) -> None:
    """An old copy of the register was put back, and others were given out since."""
    old = (home.state.path / "register.json").read_bytes()
    made = home.admission.grant(REQUEST, "phone", NOW_S)
    home.state.write("register.json", old)
    home.state.close()
    assert not Home(home.state.path, NOW_S).admission.counts(made.serial_number)


def test_who_cannot_be_revoked_is_told(home: Home) -> None:
    with pytest.raises(UsageError, match=r"No device with a certificate is called 'phone'. shardnet trust shows them"):
        home.admission.revoke("phone", NOW_S)
    with pytest.raises(UsageError, match="own certificate cannot be revoked"):
        home.admission.revoke(COORDINATOR, NOW_S)


def test_a_full_disk_gives_out_nothing_and_shuts_out_all_the_same(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made = home.admission.grant(REQUEST, "phone", NOW_S)

    def full(name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(home.state, "write", full)
    with refused(Reason.NOT_KEPT):
        home.admission.grant(request_for(new_key()), "tablet", NOW_S)
    assert {entry.name for entry in home.admission.live(NOW_S)} == {COORDINATOR, "phone"}
    with pytest.raises(ClusterError, match="phone is shut out, but that could not be written"):
        home.admission.revoke("phone", NOW_S)
    assert not home.admission.counts(made.serial_number)


def test_a_cluster_that_has_moved_shuts_out_its_old_machine(home: Home, tmp_path: Path) -> None:
    """And may move back."""
    (home.state.path / "host.key").rename(tmp_path / "host.key")
    (home.state.path / "host.pem").unlink()
    there = own_identity(home.state, home.admission, GATES, NOW_S)
    assert home.admission.counts(there.serial) and not home.admission.counts(home.identity.serial)
    (tmp_path / "host.key").rename(home.state.path / "host.key")
    (home.state.path / "host.pem").unlink()
    back = own_identity(home.state, home.admission, GATES, NOW_S)
    assert home.admission.counts(back.serial) and not home.admission.counts(there.serial)


def test_the_coordinators_own_certificate_is_renewed_when_it_is_started(home: Home) -> None:
    late_s = NOW_S + 2 / 3 * LIFE_S + 86400
    assert not home.identity.needs_renewal(late_s - 2 * 86400) and home.identity.needs_renewal(late_s)
    renewed = own_identity(home.state, home.admission, GATES, late_s)
    assert renewed.serial != home.identity.serial and not renewed.needs_renewal(late_s)
    assert home.admission.counts(renewed.serial) and home.admission.counts(home.identity.serial)


def test_an_identity_is_what_was_kept(home: Home, tmp_path: Path) -> None:
    assert identity_in(tmp_path) is None
    made = home.member(tmp_path / "phone", "phone", NOW_S)
    read = identity_in(tmp_path / "phone")
    assert read is not None and (read.name, read.gates, read.serial) == ("phone", GATES, made.serial)
    assert read.cluster_id == home.identity.cluster_id and read.authority_key == home.admission.authority.fingerprint
    assert read.key.private_numbers() == made.key.private_numbers()


def test_what_does_not_belong_together_is_no_identity(home: Home, tmp_path: Path) -> None:
    home.member(tmp_path / "a", "a", NOW_S)
    home.member(tmp_path / "b", "b", NOW_S)
    (tmp_path / "a" / "host.key").replace(tmp_path / "b" / "host.key")
    with pytest.raises(UsageError, match=r"host.pem is damaged, or of another version of shardnet. Put a copy of it"):
        identity_in(tmp_path / "b")
    other = Home(tmp_path / "other", NOW_S)
    state = StateFolder(tmp_path / "c")
    certificate = home.admission.grant(request_for(host_key(state)), "c", NOW_S)
    with pytest.raises(UsageError, match=r"host.pem is damaged"):
        keep_identity(state, certificate, other.identity.authority, GATES)


AUTHORITY = ("authority.key", "authority.pem", "register.json")
HOST = ("host.key", "host.pem", "gates.json")


@pytest.mark.parametrize("name", [*AUTHORITY, *HOST])
def test_no_damaged_file_is_believed(home: Home, name: str) -> None:
    path = home.state.path / name
    whole = path.read_bytes()
    for content in (b"", b"\xff" * 50, whole[: len(whole) // 2], b"[]", b"{}", bytes(2**23)):
        path.write_bytes(content)
        if (name, content) == ("gates.json", b"[]"):
            continue  # it knows no addresses
        with pytest.raises(UsageError, match=name) as error:
            if name in AUTHORITY:
                admission_in(home.state, NOW_S)
            else:
                identity_in(home.state.path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", [*AUTHORITY, *HOST])
def test_what_others_could_read_is_refused(home: Home, name: str) -> None:
    path = home.state.path / name
    path.chmod(0o644)
    with pytest.raises(UsageError, match=f"{name} must belong to this user and be closed to all others"):
        own_identity(home.state, admission_in(home.state, NOW_S), GATES, NOW_S)
    path.chmod(0o600)
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))
    with pytest.raises(UsageError, match=f"{name} cannot be read: it is a link"):
        own_identity(home.state, admission_in(home.state, NOW_S), GATES, NOW_S)


@pytest.mark.parametrize("name", ["authority.key", "register.json", "authority.pem"])
def test_what_is_gone_is_not_made_anew_beside_what_is_left(home: Home, name: str) -> None:
    """Without a register everybody who was ever revoked would be back."""
    (home.state.path / name).unlink()
    with pytest.raises(UsageError, match=f"{name} is damaged"):
        admission_in(home.state, NOW_S)


def test_a_start_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    own_key(state, "authority.key")
    state.write("register.json", file_of(Register()))
    assert admission_in(state, NOW_S).live(NOW_S) == ()


@pytest.mark.parametrize("damage", ['"x"', "1e999", '[["zz","a","00",0,0,null]]', '[["1f","a","00",0,0]]'])
def test_a_register_of_something_else_is_refused(home: Home, damage: str) -> None:
    home.state.write("register.json", f'{{"format": 1, "sha256": "", "entries": {damage}}}'.encode())
    with pytest.raises(UsageError, match=r"register.json is damaged"):
        admission_in(home.state, NOW_S)


def test_a_clock_that_cannot_be_right_makes_no_authority(home: Home, tmp_path: Path) -> None:
    """Boards without a battery begin in 1970: what was signed then would have expired as soon as the clock was set."""
    for folder in (tmp_path / "new", home.state.path):
        home.state.close()
        with pytest.raises(UsageError, match=r"clock says 1970-01-01, which cannot be. Set it: certificates hang on"):
            admission_in(StateFolder(folder), 100.0)
    assert not (tmp_path / "new" / "authority.pem").exists()


def entry(serial: int, name: str = "phone", until_s: float = NOW_S) -> Entry:
    return Entry(serial, name, bytes([serial % 256]) * 32, 0.0, until_s)


def test_a_register_does_not_grow_without_end() -> None:
    register = Register(tuple(entry(serial) for serial in range(MOST_ENTRIES)))
    with refused(Reason.FULL):
        register.require_free("other", b"key", NOW_S + KEPT_S - 1)
    assert len(file_of(register)) < 2**21
    register.require_free("other", b"key", NOW_S + KEPT_S)
    assert register.entered(entry(MOST_ENTRIES), NOW_S + KEPT_S).entries == (entry(MOST_ENTRIES),)


def test_one_host_does_not_fill_the_register(home: Home) -> None:
    """It could renew its certificate without end, and then nobody else could, for months, though it was shut out."""
    request = request_for(new_key())
    first = home.admission.grant(request, "phone", NOW_S)
    for _ in range(MOST_OF_ONE - 1):
        home.admission.renew(request, first.serial_number, NOW_S)
    with refused(Reason.FULL):
        home.admission.renew(request, first.serial_number, NOW_S)
    home.admission.grant(REQUEST, "tablet", NOW_S)
    home.admission.grant(request, "phone", NOW_S + LIFE_S)


def test_a_clock_that_was_ahead_for_a_while_forgets_nobody(home: Home, tmp_path: Path) -> None:
    """What is revoked must stay so, and the coordinator's certificate must count when the clock is right again."""
    phone = home.member(tmp_path / "phone", "phone", NOW_S)
    tablet = home.member(tmp_path / "tablet", "tablet", NOW_S)
    home.admission.revoke("tablet", NOW_S)
    ahead_s = NOW_S + 10 * LIFE_S
    own_identity(home.state, home.admission, GATES, ahead_s)
    home.admission.grant(REQUEST, "laptop", ahead_s)
    assert home.admission.counts(phone.serial) and tablet.serial in home.admission.revoked()
    assert covers(own_identity(home.state, home.admission, GATES, NOW_S).certificate, NOW_S)


def test_a_serial_number_stands_once_on_a_register() -> None:
    with pytest.raises(ValueError, match="given out twice"):
        Register((entry(1), entry(1)))
