"""Gives two files to whoever asks, through TLS: a phone that has no shardnet yet has nothing to show.

What is trusted is a hash that stands on the screen, and not this server: its key is made for this once, nothing of a
cluster is in this process, and nothing but these bytes leaves it. It reads one short line of each who connects.
"""

from __future__ import annotations

import asyncio
import datetime
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MOST_ASKED_BYTES = 4096
ASK_S = 10.0
"""How long a handshake may take, and then the question."""
GIVE_S = 300.0
"""How long an answer may take: 1 MB over a bad Wi-Fi."""
MOST_AT_ONCE = 16
"""Who comes beyond that is sent away."""
LIFE = datetime.timedelta(days=2)
_QUESTION = re.compile(rb"GET /([A-Za-z0-9._-]{1,100}) HTTP/1\.[01]\r\n")


class FileDesk:
    """
    Args:
        contents: what is given, by the names that are asked for.
        say: told, in a sentence, who has fetched what.
    """

    def __init__(self, contents: Mapping[str, bytes], say: Callable[[str], object]) -> None:
        self._contents = contents
        self._say = say
        self._num_here = 0

    async def serve(self, listeners: Sequence[socket.socket]) -> list[asyncio.Server]:
        """Begin to."""
        context = throwaway_context()
        options = {"ssl": context, "limit": MOST_ASKED_BYTES, "ssl_handshake_timeout": ASK_S}
        return [await asyncio.start_server(self._take, sock=each, **options) for each in listeners]  # type: ignore[arg-type]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_here += 1
        try:
            if self._num_here <= MOST_AT_ONCE:
                await self._answer(reader, writer)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it has said nothing, or too much, or is gone
        finally:
            self._num_here -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = writer.get_extra_info("peername")[0]
        asked = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ASK_S)
        found = _QUESTION.match(asked)
        name = found[1].decode() if found else ""
        content = self._contents.get(name)
        status = "404 Not Found" if content is None else "200 OK"
        given = content or b""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(given)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + given)
        try:
            await asyncio.wait_for(writer.drain(), GIVE_S)
        except asyncio.TimeoutError:
            writer.transport.abort()
            raise
        writer.close()
        with suppress(OSError):  # it has hung up with all that it wanted
            await asyncio.wait_for(writer.wait_closed(), ASK_S)
        if content is not None:
            self._say(f"{who} has fetched {name}.")


def throwaway_context() -> ssl.SSLContext:
    """TLS 1.3 with a key and a certificate that nobody has seen before."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shardnet")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFE)
        .not_valid_after(now + LIFE)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    with tempfile.TemporaryDirectory(prefix="shardnet-") as folder:  # of mode 0700; Python takes keys from files only
        chain = Path(folder) / "chain.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(chain)
    return context
