"""Who is at the other end of a connection, as the TLS library has read it from a certificate that it has checked."""

from __future__ import annotations

import ssl
from typing import Any, NamedTuple


class Peer(NamedTuple):
    """Who is at the other end of a connection, by a certificate that was checked. Whether that was revoked, it does not
    say."""

    name: str
    serial: int
    until_s: float
    """When the certificate expires, in seconds since 1970. A connection that lasts longer is to be made anew."""


def peer_of(connection: ssl.SSLObject | ssl.SSLSocket) -> Peer | None:
    """Who is at the other end, after the handshake; None where it has shown no certificate.

    Raises:
        ValueError: the certificate is not of a cluster, or was not checked.
    """
    if connection.context.verify_mode == ssl.CERT_NONE:
        raise ValueError("nobody has checked that certificate")
    shown: Any = connection.getpeercert()
    if not shown:
        return None
    names = [value for part in shown["subject"] for kind, value in part if kind == "commonName"]
    if len(names) != 1:
        raise ValueError("the certificate is not of a cluster")
    return Peer(names[0], int(shown["serialNumber"], 16), float(ssl.cert_time_to_seconds(shown["notAfter"])))
