"""How a cluster is, asked without torch; see `shardnet.coordinator.status_socket`."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from shardnet.errors import ClusterError
from shardnet.foreign.plain_files import parse_json
from shardnet.foreign.quoting import shortened
from shardnet.process.lasting import STATUS, require_running
from shardnet.transport.door.listening import short_path

START_S = 3.0
"""How long a coordinator that is just starting may take until it shows itself."""
ANSWER_S = 5.0
AGAIN_S = 0.05
MOST_BYTES = 2**24


def glance(folder: Path) -> dict[str, Any]:
    """What the cluster in a state folder shows: `ClusterStatus` as JSON has it.

    Raises:
        JoinFailed: none runs there.
        UsageError: the folder is not this user's.
        ClusterError: its coordinator does not answer.
    """
    deadline_s = time.monotonic() + START_S
    while True:
        require_running(folder)
        try:
            said = _read(folder.absolute() / STATUS)
            if not said:
                raise ClusterError(
                    f"The coordinator of the cluster in {shortened(str(folder))} says nothing: it has just ended, or "
                    "the link to its machine is broken. Ask again."
                )
            shown: dict[str, Any] = parse_json(said, "the status", ClusterError)
            return shown
        except OSError as error:
            if time.monotonic() > deadline_s or isinstance(error, TimeoutError):
                raise ClusterError(
                    f"The coordinator of the cluster in {shortened(str(folder))} does not answer: "
                    f"{error.strerror or 'it takes too long'}. Is it stopped?"
                ) from error
        time.sleep(AGAIN_S)


def _read(path: Path) -> str:
    """
    Raises:
        OSError: nobody listens there, or nothing comes.
    """
    shown = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        with short_path(path) as name:
            connection.connect(name)
        while len(shown) < MOST_BYTES and (part := connection.recv(2**16)):
            shown += part
    return shown.decode("utf-8", "replace")
