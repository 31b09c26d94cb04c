"""How the coordinator's gate speaks TLS: with a certificate that it renews itself."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence

from shardnet.errors import ShardnetError
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.admission import Admission
from shardnet.trust.contexts import server_context
from shardnet.trust.identity import Identity
from shardnet.trust.identity_files import own_identity

AGAIN_S = 3600.0
"""After which it is tried again when it could not be renewed."""
Say = Callable[[str], object]


class OwnContext:
    """Called before each handshake, so that a certificate is shown that counts.

    Args:
        say: told, in a sentence, what became of a renewal.

    Raises:
        UsageError: the files of the identity are damaged, or cannot be written.
    """

    def __init__(self, state: StateFolder, admission: Admission, gates: Sequence[Address], say: Say) -> None:
        self._state = state
        self._admission = admission
        self._gates = gates
        self._say = say
        self.identity: Identity = own_identity(state, admission, gates, time.time())
        self._context = server_context(self.identity)
        self._tried_s = -AGAIN_S

    def __call__(self) -> ssl.SSLContext:
        now_s = time.time()
        if self.identity.needs_renewal(now_s) and abs(now_s - self._tried_s) >= AGAIN_S:
            self._tried_s = now_s
            self._renew(now_s)
        return self._context

    def _renew(self, now_s: float) -> None:
        try:
            self.identity = own_identity(self._state, self._admission, self._gates, now_s)
        except ShardnetError as error:
            self._say(f"the gate's own certificate could not be renewed: {error}")
        else:
            self._context = server_context(self.identity)
            self._say("the gate's own certificate was renewed")
