"""A cluster with an authority, hosts with certificates of it, and TLS between two ends in one process.

The TLS is real; what goes over the wire stays in memory, so that no test waits for anything.
"""

from __future__ import annotations

import ssl
import time
import weakref
from pathlib import Path

from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.admission import Admission, admission_in
from shardnet.trust.authority import request_for
from shardnet.trust.identity import Identity
from shardnet.trust.identity_files import host_key, keep_identity, own_identity

GATES = (Address("192.168.1.5", 29400),)


class Home:
    """The host where a cluster was started. Its folder is held as long as somebody has this."""

    def __init__(self, folder: Path, now_s: float | None = None) -> None:
        now_s = time.time() if now_s is None else now_s
        self.state = StateFolder(folder)
        weakref.finalize(self, self.state.close)
        self.admission: Admission = admission_in(self.state, now_s)
        self.identity: Identity = own_identity(self.state, self.admission, GATES, now_s)

    def member(self, folder: Path, name: str, now_s: float | None = None) -> Identity:
        """Another host, without the way by which it comes in."""
        state = StateFolder(folder)
        request = request_for(host_key(state))
        certificate = self.admission.grant(request, name, time.time() if now_s is None else now_s)
        identity = keep_identity(state, certificate, self.admission.authority.certificate, GATES)
        state.close()
        return identity


class Wire:
    """The two ends of a TLS connection."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, server_hostname: str | None = None) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.sent = (to_server, to_client)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        self.client = client.wrap_bio(to_client, to_server, server_hostname=server_hostname)

    def shake(self) -> Wire:
        """Shake hands.

        Raises:
            ssl.SSLError: of the end that refuses.
        """
        while not all([_is_done(self.client), _is_done(self.server)]):
            pass
        return self

    def say(self, from_end: ssl.SSLObject, content: bytes) -> bytes:
        """Send something over, and return what arrives."""
        from_end.write(content)
        other = self.client if from_end is self.server else self.server
        return other.read(len(content))


def _is_done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
