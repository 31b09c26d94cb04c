"""The authority of a cluster: whom it has signed a certificate for is a host of it, and nobody else.

It is a key and a certificate that it has signed itself, made once, where the cluster was started. Whoever has its key
is the cluster. Times are seconds since 1970, and handed in.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shardnet.trust.certificates import cluster_of
from shardnet.trust.keys import PrivateKey, fingerprint_of, is_ours
from shardnet.trust.names import is_name, mark_of

LIFE_S = 90 * 86400.0
"""Of a certificate."""
BEFORE_S = 3600.0
"""So much earlier than now a certificate counts: clocks differ."""
MOST_REQUEST_BYTES = 2**11
_AUTHORITY_LIFE = timedelta(days=20 * 365)
_AUTHORITY_BEFORE = timedelta(days=30)


class Authority:
    """A key, and the certificate that hosts know it by."""

    def __init__(self, key: PrivateKey, certificate: x509.Certificate) -> None:
        """Raises ValueError where they do not belong together."""
        self._key = key
        self.certificate = certificate
        self.fingerprint = fingerprint_of(key.public_key())
        if fingerprint_of(certificate.public_key()) != self.fingerprint:
            raise ValueError("the certificate is of another key")

    @property
    def cluster_id(self) -> str:
        """By which clusters are told apart."""
        return cluster_of(self.certificate)

    def issue(self, request: bytes, name: str, now_s: float, life_s: float = LIFE_S) -> x509.Certificate:
        """Sign a certificate for the key of a request; nothing else of the request is looked at.

        Args:
            request: a PKCS #10 request (DER), signed with that key.

        Raises:
            ValueError: it is none, its sender has not shown to have the key, the key is of another kind, or no host can
                have that name.
        """
        if not is_name(name):
            raise ValueError("no host can be called so")
        key = key_of_request(request)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        begins, ends = _time(now_s - BEFORE_S), _time(now_s + life_s)
        builder = _builder(self.certificate.subject, name, self.cluster_id, key, begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        mark = x509.IPAddress(mark_of(self.fingerprint, name))
        builder = builder.add_extension(x509.SubjectAlternativeName([mark]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def new_authority(key: PrivateKey, cluster_id: str, now_s: float) -> Authority:
    """The authority of a new cluster."""
    name = _name("shardnet authority", cluster_id)
    begins, ends = _time(now_s) - _AUTHORITY_BEFORE, _time(now_s) + _AUTHORITY_LIFE
    builder = _builder(name, "shardnet authority", cluster_id, key.public_key(), begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def request_for(key: PrivateKey) -> bytes:
    """A request for a certificate of a key, signed with it. It says no name: the authority gives that."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def key_of_request(request: bytes) -> Any:
    """The public key of a request whose sender has it.

    Raises:
        ValueError: as for `Authority.issue`.
    """
    if len(request) > MOST_REQUEST_BYTES:
        raise ValueError(f"a request of {len(request)} bytes")
    try:
        read = x509.load_der_x509_csr(request)
        key = read.public_key()
        is_proven = is_ours(key) and read.is_signature_valid
    except (UnsupportedAlgorithm, x509.InvalidVersion) as cause:
        raise ValueError("the request is of an unknown kind") from cause
    if not is_proven:
        raise ValueError("the request is not signed with a key of ours")
    return key


def _builder(
    issuer: x509.Name, name: str, cluster_id: str, key: Any, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(_name(name, cluster_id))
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(common: str, cluster_id: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _key_usage(digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _time(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, timezone.utc)
