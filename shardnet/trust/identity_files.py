"""The identity of a host as files in its state folder.

Three of them: `host.key`, `host.pem` (its certificate and the authority's), `gates.json`. The certificates are written
last: where they are, the host is a member.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from shardnet.process import state_format
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.admission import Admission
from shardnet.trust.authority import request_for
from shardnet.trust.certificates import MOST_CERTIFICATE_BYTES, cluster_of, covers, is_issued_by, name_of
from shardnet.trust.identity import CERTIFICATES, GATES, KEY, Identity, gates_in, keep_gates
from shardnet.trust.keys import PrivateKey, fingerprint_of, key_in, own_key
from shardnet.trust.own_files import damaged, keep, read_own


def identity_in(folder: Path) -> Identity | None:
    """The identity in a state folder; None where the host has not joined a cluster.

    Raises:
        UsageError: its files are damaged, some are gone, others could read them, or they are of a release that does not
            go with this one.
    """
    path = folder / CERTIFICATES
    content = read_own(path, 4 * MOST_CERTIFICATE_BYTES)
    if content is None:
        return None
    state_format.require_readable(folder)
    key = key_in(folder / KEY)
    if key is None:
        raise damaged(folder / KEY)
    try:
        certificate, authority = x509.load_pem_x509_certificates(content)
        name_of(certificate)
        is_own = fingerprint_of(certificate.public_key()) == fingerprint_of(key.public_key())
    except ValueError as cause:
        raise damaged(path) from cause
    if not is_own or not is_issued_by(certificate, authority):
        raise damaged(path)
    return identity_of(folder, certificate, authority, gates_in(folder / GATES))


def keep_identity(
    state: StateFolder, certificate: x509.Certificate, authority: x509.Certificate, gates: Sequence[Address]
) -> Identity:
    """Write down what a host has got, and return it. Its key is there already.

    Raises:
        UsageError: it cannot be written, or does not belong together.
    """
    keep_gates(state, gates)
    keep(state, CERTIFICATES, b"".join(map(_pem, (certificate, authority))))
    kept = identity_in(state.path)
    assert kept is not None
    return kept


def host_key(state: StateFolder) -> PrivateKey:
    """The key of this host, made where there is none.

    Raises:
        UsageError: it is damaged, or others could read it.
    """
    return own_key(state, KEY)


def own_identity(state: StateFolder, admission: Admission, gates: Sequence[Address], now_s: float) -> Identity:
    """The identity of the coordinator's own gate, made or renewed where that is due.

    Raises:
        UsageError: its files are damaged, or cannot be written.
        Refused: the register cannot be written.
    """
    key = host_key(state)
    there = identity_in(state.path)
    authority = admission.authority.certificate
    is_current = there is not None and there.authority == authority and admission.counts(there.serial)
    if there is not None and is_current and covers(there.certificate, now_s) and not there.needs_renewal(now_s):
        return keep_identity(state, there.certificate, authority, gates)
    return keep_identity(state, admission.grant_own(request_for(key), now_s), authority, gates)


def identity_of(
    folder: Path, certificate: x509.Certificate, authority: x509.Certificate, gates: tuple[Address, ...]
) -> Identity:
    """What these say together. The key lies in the folder."""
    return Identity(
        folder=folder,
        name=name_of(certificate),
        serial=certificate.serial_number,
        begins_s=certificate.not_valid_before_utc.timestamp(),
        ends_s=certificate.not_valid_after_utc.timestamp(),
        cluster_id=cluster_of(authority),
        authority_key=fingerprint_of(authority.public_key()),
        certificate_pem=_pem(certificate),
        authority_pem=_pem(authority),
        gates=gates,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
