"""Connections of a gate to what listens on its own host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardnet.transport.door.listening import short_path

MakeProtocol = Callable[[], asyncio.Protocol]


async def reach(host: str, port: int, make_protocol: MakeProtocol) -> Any:
    """Connect to the agent of a member of this host.

    Raises:
        OSError: it is gone.
    """
    return await asyncio.get_running_loop().create_connection(make_protocol, host, port)


async def connect_there(path: Path, preface: bytes, make_protocol: MakeProtocol) -> Any:
    """Connect to a Unix socket of this user, and say something first.

    Raises:
        OSError: nobody listens there.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        with short_path(path) as name:
            await loop.sock_connect(connection, name)
        await loop.sock_sendall(connection, preface)
        return await loop.create_unix_connection(make_protocol, sock=connection)
    except BaseException:
        connection.close()
        raise
