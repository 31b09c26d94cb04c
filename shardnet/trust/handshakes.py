"""Why a handshake came to nothing, in words: for the log of who listens and the message of who dials."""

from __future__ import annotations

import ssl

_BY_CODE = {
    9: "the other side's certificate does not count yet; look whether the clocks of both hosts are right",
    10: "the other side's certificate has expired; look whether the clocks of both hosts are right",
    18: "the other side's certificate is of another authority",
    19: "the other side's certificate is of another authority",
    20: "the other side's certificate is of another authority",
    21: "the other side's certificate is of another authority",
    62: "the other side is another host than the one that was dialled",
    64: "the other side is another host than the one that was dialled",
}
"""What OpenSSL finds wrong with a certificate (X509_V_ERR_...)."""
_BY_REASON = {
    "CERTIFICATE_EXPIRED": "the other side says that this host's certificate has expired, or its clock is wrong",
    "UNKNOWN_CA": "the other side belongs to another cluster",
    "BAD_CERTIFICATE": "the other side refuses this host's certificate",
    "CERTIFICATE_UNKNOWN": "the other side refuses this host's certificate",
    "PROTOCOL_VERSION": "the other side does not speak TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "the other side does not speak TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "the other side does not speak TLS 1.3",
    "HTTP_REQUEST": "the other side does not speak TLS",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
    "UNEXPECTED_EOF": "the other side ended the connection in the handshake",
}
"""Alerts of the other side, and what OpenSSL could not read: by a part of its name for it."""


def reason_of(error: OSError) -> str:
    """What is wrong with a connection whose handshake, or first reading after it, has failed; half a sentence.

    A client hears only then, and not in the handshake, that the server refuses its certificate: TLS 1.3 is so.
    """
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _BY_CODE:
        return _BY_CODE[error.verify_code]
    if isinstance(error, ssl.SSLError):
        reason = error.reason or type(error).__name__.upper()
        said = next((words for name, words in _BY_REASON.items() if name in reason), None)
        return said or f"the other side does not speak TLS as members do ({reason})"
    return "the other side ended the connection" if isinstance(error, ConnectionError) else str(error)
