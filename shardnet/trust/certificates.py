"""What a certificate says: read from bytes that anybody may have sent. What a handshake has checked: see `peers`."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from shardnet.trust.keys import is_ours

MOST_CERTIFICATE_BYTES = 2**11


def read_certificate(content: bytes) -> x509.Certificate:
    """A certificate (DER) with a key of the kind that clusters use.

    Raises:
        ValueError: it is none.
    """
    if len(content) > MOST_CERTIFICATE_BYTES:
        raise ValueError(f"a certificate of {len(content)} bytes")
    try:
        read = x509.load_der_x509_certificate(content)
        is_known = is_ours(read.public_key())
    except (UnsupportedAlgorithm, x509.InvalidVersion) as cause:
        raise ValueError("a certificate of an unknown kind") from cause
    if not is_known:
        raise ValueError("a certificate with a key of another kind")
    return read


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority has signed a certificate, which is of the same cluster then. Says nothing of times."""
    try:
        certificate.verify_directly_issued_by(authority)
        return cluster_of(certificate) == cluster_of(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False


def covers(certificate: x509.Certificate, now_s: float) -> bool:
    """Whether a certificate counts at that time."""
    return certificate.not_valid_before_utc.timestamp() <= now_s < certificate.not_valid_after_utc.timestamp()


def cluster_of(certificate: x509.Certificate) -> str:
    """The cluster that a certificate is of.

    Raises:
        ValueError: it does not say.
    """
    return _only(certificate, NameOID.ORGANIZATION_NAME)


def name_of(certificate: x509.Certificate) -> str:
    """The name of the host that a certificate is of.

    Raises:
        ValueError: it does not say.
    """
    return _only(certificate, NameOID.COMMON_NAME)


def _only(certificate: x509.Certificate, which: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(which)
    if len(values) != 1 or not isinstance(values[0].value, str):
        raise ValueError("the certificate is not of a cluster")
    return values[0].value
