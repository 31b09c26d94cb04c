"""What a host has by which others know it: its key, its certificate, its cluster's authority, and where to dial.

What is asked of it all the time stands here as it is, without the library that reads certificates: a gate has no use
for that but to renew its own, once in weeks. `identity_files` makes it of a state folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shardnet.errors import UsageError
from shardnet.foreign.plain_files import parse_json
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address, parse_address
from shardnet.trust.own_files import damaged, keep, read_own

if TYPE_CHECKING:
    from cryptography import x509

    from shardnet.trust.keys import PrivateKey

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
    name: str
    serial: int
    begins_s: float
    ends_s: float
    """Between these times its certificate counts, in seconds since 1970."""
    cluster_id: str
    authority_key: bytes
    """Its fingerprint."""
    certificate_pem: bytes
    authority_pem: bytes
    gates: tuple[Address, ...]
    """Where the coordinator's gate can be dialled, as far as is known."""

    @property
    def key(self) -> PrivateKey:
        """Read anew, as the certificates are."""
        from shardnet.trust.keys import key_in

        key = key_in(self.key_file)
        if key is None:
            raise damaged(self.key_file)
        return key

    @property
    def certificate(self) -> x509.Certificate:
        from cryptography import x509

        return x509.load_pem_x509_certificate(self.certificate_pem)

    @property
    def authority(self) -> x509.Certificate:
        from cryptography import x509

        return x509.load_pem_x509_certificate(self.authority_pem)

    @property
    def key_file(self) -> Path:
        return self.folder / KEY

    @property
    def certificates_file(self) -> Path:
        return self.folder / CERTIFICATES

    def needs_renewal(self, now_s: float) -> bool:
        """Whether most of the certificate's life is over."""
        return now_s >= self.begins_s + RENEWED_AFTER * (self.ends_s - self.begins_s)


def keep_gates(state: StateFolder, gates: Sequence[Address]) -> None:
    """Write down where the coordinator's gate can be dialled.

    Raises:
        UsageError: it cannot be written.
    """
    keep(state, GATES, json.dumps([str(gate) for gate in gates[:MOST_GATES]]).encode())


def gates_in(path: Path) -> tuple[Address, ...]:
    """What was written down there.

    Raises:
        UsageError: it is damaged, or others could have changed it.
    """
    content = read_own(path, MOST_GATES_BYTES)
    try:
        listed = parse_json((content or b"").decode(), "the addresses")
        if not isinstance(listed, list):
            raise ValueError("it is no list")
        return tuple(parse_address(str(each)) for each in listed)
    except (UsageError, ValueError) as cause:
        raise damaged(path) from cause
