"""Knocking at a door: a connection that both ends believe in."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from shardnet.errors import JoinFailed, OtherVersion
from shardnet.transport.door.challenge import (
    DOOR,
    MEMBER,
    Exchange,
    greet,
    has_same_messages,
)
from shardnet.transport.door.endpoint import path_in, split_endpoint
from shardnet.transport.door.greeting import is_greeting, version_in
from shardnet.transport.door.key import FOLDER, NAME, own_key
from shardnet.transport.door.listening import short_path, tend, where
from shardnet.transport.door.messages import GREETING_BYTES, PROOF_BYTES
from shardnet.versions import why_not_together

AGAIN_LEAST_S, AGAIN_MOST_S = 0.05, 1.0
"""After which a door that is not there yet is tried again: a tenth of how long it was not there, within these."""


def knock(endpoint: str, timeout_s: float) -> socket.socket:
    """Connect to a door, and be let in. Waits for it to be opened.

    Raises:
        UsageError: the endpoint is neither "unix:PATH" nor "host:port", or this user has no key.
        JoinFailed: no door is there in time, or not one that this process can enter (`OtherVersion` where it cannot
            understand it).
    """
    began_s = time.monotonic()
    deadline_s = began_s + timeout_s
    key = _key_for(endpoint)
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            return _knock_once(endpoint, key, left_s, _nothing)
        except PermissionError as error:
            raise JoinFailed(f"The door at {endpoint} is not open to this user.") from error
        except (OSError, EOFError):
            pause_s = min(AGAIN_MOST_S, max(AGAIN_LEAST_S, (time.monotonic() - began_s) / 10))
            time.sleep(min(pause_s, max(0.0, deadline_s - time.monotonic())))
    raise JoinFailed(f"No cluster answers at {endpoint} within {timeout_s:g} s. {_what_to_start(endpoint)}")


def _what_to_start(endpoint: str) -> str:
    if path_in(endpoint) is not None:
        return "Is the coordinator running there?"
    return f"Start one there: shardnet-run --rdzv-endpoint {endpoint} SCRIPT keeps one open while the script runs."


def knock_again(endpoint: str, timeout_s: float, on_connection: Callable[[socket.socket], object]) -> socket.socket:
    """The same, once and without waiting for the door to be opened.

    Args:
        on_connection: given what is connected before anything is said, so that it can be shut down meanwhile.

    Raises:
        ShardnetError, OSError, EOFError: there is no door, or not one that this process can enter.
    """
    return _knock_once(endpoint, _key_for(endpoint), timeout_s, on_connection)


def _key_for(endpoint: str) -> bytes:
    return own_key() if path_in(endpoint) is None and split_endpoint(endpoint) else b""


def _nothing(_: socket.socket) -> None:
    """Nobody minds."""


def _knock_once(
    endpoint: str, key: bytes, timeout_s: float, on_connection: Callable[[socket.socket], object]
) -> socket.socket:
    connection = _connect(endpoint, timeout_s)
    try:
        on_connection(connection)
        _be_let_in(connection, endpoint, key)
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(endpoint: str, timeout_s: float) -> socket.socket:
    path = path_in(endpoint)
    if path is None:
        connection = socket.create_connection(split_endpoint(endpoint), timeout_s)
        tend(connection)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with short_path(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def _be_let_in(connection: socket.socket, endpoint: str, key: bytes) -> None:
    said = greet()
    connection.sendall(said)
    answer = read_exactly(connection, GREETING_BYTES)
    if not is_greeting(answer):
        raise JoinFailed(f"What answers at {endpoint} is no cluster of shardnet. Look at the address.")
    if not has_same_messages(answer):
        raise OtherVersion(why_not_together(version_in(answer), f"The cluster at {endpoint}"))
    exchange = Exchange(key, where(connection.getpeername()), said, answer)
    if not exchange.is_proven(DOOR, read_exactly(connection, PROOF_BYTES)):
        raise JoinFailed(
            f"The cluster at {endpoint} does not know the key of this user ({FOLDER}/{NAME}). "
            "Is it another user's, or has its process another home folder?"
        )
    connection.sendall(exchange.proof(MEMBER))


def read_exactly(connection: socket.socket, num_bytes: int) -> bytes:
    """So many bytes from a connection.

    Raises:
        EOFError: it was closed.
        OSError: it broke.
    """
    parts = []
    while num_bytes > 0:
        part = connection.recv(min(num_bytes, 2**16))
        if not part:
            raise EOFError("the connection was closed")
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)
