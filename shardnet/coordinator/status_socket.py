"""Shows how the cluster is to whoever of this user connects to a socket in the state folder: one object of JSON each.

Sources can ask the same over the transport; but that takes them more than a second, as torch must be imported first.
Nothing is read from who connects.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shardnet.process.lasting import STATUS
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.listening import listen_in

SEND_S = 5.0
"""How long one may take to read it."""
_log = logging.getLogger(__name__)


class StatusSocket:
    """Listens on a thread of its own. A context manager: leaving it closes and removes the socket.

    Args:
        state: the folder, which this process holds.
        status: makes the object, within a second.

    Raises:
        UsageError: there is no room for a socket.
    """

    def __init__(self, state: StateFolder, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status
        self._listener = listen_in(state, STATUS)
        self._thread = threading.Thread(target=self._run, name="shardnet-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Safe to call twice."""
        with suppress(OSError):  # closed already
            self._listener.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.socket.close()
        self._listener.remove()

    def __enter__(self) -> StatusSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.socket.accept()
            except OSError:
                return
            try:
                with connection:
                    connection.settimeout(SEND_S)
                    connection.sendall(json.dumps(self._status()).encode())
            except OSError:
                pass  # whoever it was is gone
            except Exception as error:  # whatever it is, the next one must be answered
                _log.error("showing the status failed: %s: %s", type(error).__name__, error)
