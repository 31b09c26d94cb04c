"""What a host has by which others know it: its key, its certificate, its cluster's authority, and where to dial.

Three files in its state folder: `host.key`, `host.pem` (its certificate and the authority's), `gates.json`. The
certificates are written last: where they are, the host is a member.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from shardnet.errors import UsageError
from shardnet.foreign.plain_files import parse_json
from shardnet.process import state_format
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address, parse_address
from shardnet.trust.admission import Admission
from shardnet.trust.authority import request_for
from shardnet.trust.certificates import MOST_CERTIFICATE_BYTES, cluster_of, covers, is_issued_by, name_of
from shardnet.trust.keys import PrivateKey, damaged, fingerprint_of, keep, key_in, own_key
from shardnet.trust.own_files import read_own

KEY = "host.key"
CERTIFICATES = "host.pem"
GATES = "gates.json"
MOST_GATES = 16
MOST_GATES_BYTES = 2**13
RENEWED_AFTER = 2 / 3
"""Of the life of a certificate."""


@dataclass(frozen=True)
class Identity:
    """Of a host, as it lies in a state folder."""

    folder: Path
    key: PrivateKey
    certificate: x509.Certificate
    authority: x509.Certificate
    gates: tuple[Address, ...]
    """Where the coordinator's gate can be dialled, as far as is known."""

    @property
    def name(self) -> str:
        return name_of(self.certificate)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    @property
    def cluster_id(self) -> str:
        return cluster_of(self.authority)

    @property
    def authority_key(self) -> bytes:
        """Its fingerprint."""
        return fingerprint_of(self.authority.public_key())

    @property
    def key_file(self) -> Path:
        return self.folder / KEY

    @property
    def certificates_file(self) -> Path:
        return self.folder / CERTIFICATES

    def needs_renewal(self, now_s: float) -> bool:
        """Whether most of the certificate's life is over."""
        begins_s = self.certificate.not_valid_before_utc.timestamp()
        ends_s = self.certificate.not_valid_after_utc.timestamp()
        return now_s >= begins_s + RENEWED_AFTER * (ends_s - begins_s)


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
    return Identity(folder, key, certificate, authority, _gates_in(folder / GATES))


def keep_identity(
    state: StateFolder, certificate: x509.Certificate, authority: x509.Certificate, gates: Sequence[Address]
) -> Identity:
    """Write down what a host has got, and return it. Its key is there already.

    Raises:
        UsageError: it cannot be written, or does not belong together.
    """
    keep_gates(state, gates)
    encoded = (each.public_bytes(serialization.Encoding.PEM) for each in (certificate, authority))
    keep(state, CERTIFICATES, b"".join(encoded))
    kept = identity_in(state.path)
    assert kept is not None
    return kept


def keep_gates(state: StateFolder, gates: Sequence[Address]) -> None:
    """Write down where the coordinator's gate can be dialled.

    Raises:
        UsageError: it cannot be written.
    """
    keep(state, GATES, json.dumps([str(gate) for gate in gates[:MOST_GATES]]).encode())


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


def _gates_in(path: Path) -> tuple[Address, ...]:
    content = read_own(path, MOST_GATES_BYTES)
    try:
        listed = parse_json((content or b"").decode(), "the addresses")
        if not isinstance(listed, list):
            raise ValueError("it is no list")
        return tuple(parse_address(str(each)) for each in listed)
    except (UsageError, ValueError) as cause:
        raise damaged(path) from cause
