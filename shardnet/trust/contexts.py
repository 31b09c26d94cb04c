"""How hosts speak TLS: version 1.3 only, certificates of their cluster's authority and no others, no resumption.

What a context checks, it checks in the handshake: authority, times, usage, and, where this side dials, the name.
Whether a certificate was revoked is asked afterwards, on both sides, by its serial number (`peer_of`). No tickets are
given out, so that every connection shows a certificate anew.

A server accepts connections without a certificate: newcomers have none yet. With what they may go on is for who listens
to say, by the protocol that was agreed on (ALPN): `ENROL`, and nothing else.
"""

from __future__ import annotations

import ssl

from shardnet.trust.identity import Identity
from shardnet.trust.names import mark_of

ENROL = "shardnet-enrol"
"""To become a member, or to renew a certificate."""
LINK = "shardnet-link"
"""Between members."""
CALL = "shardnet-call"
"""From the coordinator's gate to another: it says where it can be dialled now."""


def server_context(identity: Identity) -> ssl.SSLContext:
    """For connections that come in; whoever shows a certificate of another authority does not get through."""
    context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    _trust(context, identity)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.set_alpn_protocols([LINK, ENROL, CALL])
    return context


def client_context(identity: Identity, protocol: str = LINK) -> ssl.SSLContext:
    """For connections to members. Each needs `server_hostname=server_mark(identity, NAME)`; without it, it is a
    ValueError."""
    context = _context(_Dialling(ssl.PROTOCOL_TLS_CLIENT))
    _trust(context, identity)
    context.set_alpn_protocols([protocol])
    return context


def server_mark(identity: Identity, name: str) -> str:
    """What stands for the name of the member that is dialled; see `mark_of`."""
    return str(mark_of(identity.authority_key, name))


def enrolment_context() -> ssl.SSLContext:
    """For a newcomer's connection. It trusts anybody so far: the enrolment itself finds out who is there."""
    context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ENROL])
    return context


class _Dialling(ssl.SSLContext):
    """For connections whose other end has a name to be checked: Python asks for it with sockets, but not here."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if server_hostname is None:
            raise ValueError("say by server_hostname which member is dialled")
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _context(context: ssl.SSLContext) -> ssl.SSLContext:
    """Not `create_default_context`, which trusts the system's authorities, and writes keys where SSLKEYLOGFILE says."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    return context


def _trust(context: ssl.SSLContext, identity: Identity) -> None:
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=identity.authority_pem.decode())
    context.load_cert_chain(identity.certificates_file, identity.key_file)
