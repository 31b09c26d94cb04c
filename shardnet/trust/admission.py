"""Whom a cluster has taken in: its authority and its register. What changes is on the disk before anybody hears of it.

Not for several threads.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from shardnet.errors import ClusterError, UsageError
from shardnet.foreign.quoting import quoted
from shardnet.process.state_folder import StateFolder
from shardnet.trust import register_file
from shardnet.trust.authority import Authority, key_of_request, new_authority
from shardnet.trust.certificates import MOST_CERTIFICATE_BYTES, cluster_of, covers
from shardnet.trust.keys import fingerprint_of, key_in, own_key
from shardnet.trust.names import COORDINATOR, is_name
from shardnet.trust.own_files import damaged, keep, read_own
from shardnet.trust.refusals import Reason, Refused
from shardnet.trust.register import Entry, Register

KEY = "authority.key"
CERTIFICATE = "authority.pem"
FIRST_S = 1_767_225_600.0
"""The year 2026 began: no cluster is older."""


class Admission:
    """The authority of a cluster at work.

    Args:
        state: where it lives.
    """

    def __init__(self, state: StateFolder, authority: Authority, register: Register) -> None:
        self._state = state
        self.authority = authority
        self._register = register

    def counts(self, serial: int) -> bool:
        """Whether a certificate was given out here and not revoked. To be asked after each handshake."""
        return self._register.counts(serial)

    def live(self, now_s: float) -> Sequence[Entry]:
        """The certificates that count now, for people to look at."""
        return self._register.live(now_s)

    def revoked(self) -> frozenset[int]:
        """The serial numbers that other hosts must refuse, too."""
        return self._register.revoked()

    def grant(self, request: bytes, name: str, now_s: float) -> x509.Certificate:
        """Give a certificate to a host that was invited. One that has the same key and the same name may ask again: it
        was cut off before it had the answer, say.

        Raises:
            Refused: the name is taken or none, the request is none, the key was revoked, or the disk is full.
        """
        if not is_name(name) or name.lower() == COORDINATOR:
            raise Refused(Reason.BAD_NAME)
        self._register.require_free(name, fingerprint_of(_key_of(request)), now_s)
        return self._issue(request, name, now_s)

    def renew(self, request: bytes, serial: int, now_s: float) -> x509.Certificate:
        """Give another certificate to a host that has one, for the same name and the same key.

        Args:
            serial: of the certificate that it has shown.

        Raises:
            Refused: that one does not count, or the request is of another key or none.
        """
        entry = next((each for each in self._register.live(now_s) if each.serial == serial), None)
        if entry is None:
            raise Refused(Reason.KEY_REVOKED)
        if fingerprint_of(_key_of(request)) != entry.key:
            raise Refused(Reason.NOT_UNDERSTOOD)
        self._register.require_free(entry.name, entry.key, now_s)
        return self._issue(request, entry.name, now_s)

    def grant_own(self, request: bytes, now_s: float) -> x509.Certificate:
        """Give a certificate to the coordinator's own gate. Where the cluster has moved to this machine, that of the
        other one counts no more.

        Raises:
            Refused: the disk is full.
        """
        earlier = self._register.coordinators_before(fingerprint_of(_key_of(request)))
        if earlier:
            self._keep(self._register.revoking(earlier, now_s))
        return self._issue(request, COORDINATOR, now_s)

    def revoke(self, name: str, now_s: float) -> frozenset[int]:
        """Let no certificate of a host count any more, and return their serial numbers: its connections are to be cut.

        Raises:
            UsageError: there is no such host, or it is the coordinator's own.
            ClusterError: it could not be written down. Until this process ends it is in force all the same.
        """
        if name.lower() == COORDINATOR:
            raise UsageError("The coordinator's own certificate cannot be revoked: end the cluster instead.")
        serials = self._register.serials_of(name)
        if not serials:
            raise UsageError(f"No device with a certificate is called {quoted(name)}. shardnet trust shows them all.")
        self._register = self._register.revoking(serials, now_s)
        try:
            self._keep(self._register)
        except Refused as cause:
            raise ClusterError(
                f"{name} is shut out, but that could not be written to {self._state.path}, and is forgotten when the "
                "cluster ends. Make room on the disk, and revoke it again."
            ) from cause
        return serials

    def _issue(self, request: bytes, name: str, now_s: float) -> x509.Certificate:
        key = fingerprint_of(_key_of(request))
        made = self.authority.issue(request, name, now_s)
        since_s, until_s = made.not_valid_before_utc.timestamp(), made.not_valid_after_utc.timestamp()
        entry = Entry(made.serial_number, name, key, since_s, until_s)
        self._keep(self._register.entered(entry, now_s))
        return made

    def _keep(self, register: Register) -> None:
        try:
            self._state.write(register_file.NAME, register_file.file_of(register))
        except OSError as cause:
            raise Refused(Reason.NOT_KEPT) from cause
        self._register = register


def admission_in(state: StateFolder, now_s: float) -> Admission:
    """The authority in a state folder, made where there is none.

    Raises:
        UsageError: its files are damaged, some are gone, or others could read them; or the clock cannot be right.
    """
    path = state.path / CERTIFICATE
    content = read_own(path, 2 * MOST_CERTIFICATE_BYTES)
    register = register_file.register_in(state.path)
    if content is None:
        return _new(state, register, now_s)
    key = key_in(state.path / KEY)
    if key is None or register is None:
        raise damaged(state.path / (KEY if key is None else register_file.NAME))
    try:
        authority = Authority(key, x509.load_pem_x509_certificate(content))
        cluster_of(authority.certificate)
    except ValueError as cause:
        raise damaged(path) from cause
    _require_clock(covers(authority.certificate, now_s), now_s)
    return Admission(state, authority, register)


def _new(state: StateFolder, register: Register | None, now_s: float) -> Admission:
    """The certificate is written last: where it is there, all is."""
    if register is not None and register.entries:
        raise damaged(state.path / CERTIFICATE)
    _require_clock(now_s >= FIRST_S, now_s)
    authority = new_authority(own_key(state, KEY), secrets.token_hex(16), now_s)
    keep(state, register_file.NAME, register_file.file_of(Register()))
    keep(state, CERTIFICATE, authority.certificate.public_bytes(serialization.Encoding.PEM))
    return Admission(state, authority, Register())


def _require_clock(is_possible: bool, now_s: float) -> None:
    """What is signed by a wrong clock counts at another time than it is used."""
    if not is_possible:
        day = datetime.fromtimestamp(now_s, timezone.utc).date()
        raise UsageError(f"This machine's clock says {day}, which cannot be. Set it: certificates hang on time.")


def _key_of(request: bytes) -> Any:
    try:
        return key_of_request(request)
    except ValueError as cause:
        raise Refused(Reason.NOT_UNDERSTOOD) from cause
