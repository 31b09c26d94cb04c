"""TLS over a stream: what two hosts say to each other is closed to the host whose gate carries it between them."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from typing import Any

from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream


async def dial_over(
    session: LinkSession,
    destination: bytes,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext,
    server_hostname: str,
    handshake_s: float,
) -> ssl.SSLObject:
    """Open a stream, and speak TLS over it as a client. The protocol reads what is within. Returns what tells of the
    other end.

    Raises:
        OSError: the handshake failed, or takes too long.
        ClusterError: see `LinkSession.open_stream`.
    """
    tls, shaken = _wrapped(protocol, context, handshake_s, server_side=False, server_hostname=server_hostname)
    stream, _ = session.open_stream(lambda: tls, destination)
    await _await(shaken, stream)
    found: ssl.SSLObject = tls._get_extra_info("ssl_object")  # there may be no transport any more
    return found


async def answer_over(
    stream: Stream, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, handshake_s: float
) -> None:
    """Speak TLS as a server over a stream that another gate has opened.

    Raises:
        OSError: as `dial_over`.
    """
    tls, shaken = _wrapped(protocol, context, handshake_s, server_side=True)
    stream.begin(tls)
    await _await(shaken, stream)


def _wrapped(
    protocol: asyncio.BaseProtocol, context: ssl.SSLContext, handshake_s: float, **how: Any
) -> tuple[Any, asyncio.Future[None]]:
    """`loop.start_tls` makes the same, but may lose what comes right behind the handshake."""
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[None] = loop.create_future()
    tls: Any = sslproto.SSLProtocol  # not in typeshed with what it takes
    return tls(loop, protocol, context, shaken, ssl_handshake_timeout=handshake_s, **how), shaken


async def _await(shaken: asyncio.Future[None], stream: Stream) -> None:
    try:
        await shaken
    except BaseException:
        stream.abort()
        raise
