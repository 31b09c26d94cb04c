"""What the gate of a cluster's coordinator is asked: invitations, and who may be a member. Needs no torch."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from shardnet.errors import ClusterError, UsageError
from shardnet.foreign.plain_files import parse_json
from shardnet.foreign.quoting import shortened
from shardnet.process.lasting import TRUST, require_running
from shardnet.transport.door.listening import short_path

ANSWER_S = 10.0
MOST_BYTES = 2**22


def ask_gate(folder: Path, question: str, name: str = "") -> Any:
    """What the gate answers; see `gate.desk`.

    Raises:
        JoinFailed: no cluster runs in that folder.
        UsageError: it has no gate, or refuses.
        ClusterError: it does not answer.
    """
    require_running(folder)
    path = folder.absolute() / TRUST
    try:
        said = _asked(path / TRUST if path.is_dir() else path, {"ask": question, "name": name})
    except FileNotFoundError:
        raise UsageError(
            f"The cluster in {shortened(str(folder))} is open to this machine only. Start it without --listen none "
            "to let other machines in."
        ) from None
    except OSError as error:
        raise ClusterError(
            f"The gate of the cluster does not answer: {error.strerror or 'it takes too long'}."
        ) from error
    if not said:
        raise ClusterError("The gate of the cluster does not answer: the link to its host is broken.")
    answer: Any = parse_json(said, "the answer", ClusterError)
    if "error" in answer:
        raise UsageError(str(answer["error"]))
    return answer["answer"]


def _asked(path: Path, question: dict[str, str]) -> str:
    said = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        with short_path(path) as name:
            connection.connect(name)
        connection.sendall(json.dumps(question).encode() + b"\n")
        while len(said) < MOST_BYTES and (part := connection.recv(2**16)):
            said += part
    return said.decode("utf-8", "replace")
