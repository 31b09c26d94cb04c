"""What a QR code says: where the cluster can be dialled, whom to trust there, and the token of an invitation.

    SHARDNET: | base32 of: wire format (1 byte) | fingerprint of the authority (32) | token (16) |
    number of addresses (1) | addresses | first 4 bytes of the SHA-256 of all that

An address is its kind (4, 6, or 0 for a name), the address or a length byte and the name, and the port (2). In this
alphabet a QR code takes 5.5 bits a character; whoever pastes the text may do so in any case, with line breaks.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from typing import NamedTuple

from shardnet.errors import UsageError
from shardnet.trust.addresses import Address, address_of
from shardnet.trust.invitations import TOKEN_BYTES
from shardnet.versions import OURS, Version, why_not_together

PREFIX = "SHARDNET:"
MOST_ADDRESSES = 8
MOST_CHARACTERS = 2**12
_FINGERPRINT_BYTES = 32
_SUM_BYTES = 4
_NAMED = 0


class Payload(NamedTuple):
    """What a device needs to join."""

    fingerprint: bytes
    token: bytes
    addresses: tuple[Address, ...]

    @property
    def text(self) -> str:
        """As it stands in a QR code. Only the first addresses have room in it."""
        addresses = self.addresses[:MOST_ADDRESSES]
        content = bytes([OURS.wire]) + self.fingerprint + self.token + bytes([len(addresses)])
        content += b"".join(map(_packed, addresses))
        return PREFIX + base64.b32encode(content + _sum_of(content)).decode().rstrip("=")


def is_payload(text: str) -> bool:
    """Whether somebody means such a text, and no short code."""
    return text.lstrip()[: len(PREFIX)].upper() == PREFIX


def parse_payload(text: str) -> Payload:
    """What a text says.

    Raises:
        UsageError: it is not whole, or of a version that does not go with this one.
    """
    if len(text) > MOST_CHARACTERS or not is_payload(text):
        raise _not_whole()
    letters = "".join(text.split()).upper().removeprefix(PREFIX)
    try:
        content = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError as cause:
        raise _not_whole() from cause
    said, checksum = content[:-_SUM_BYTES], content[-_SUM_BYTES:]
    if not said or checksum != _sum_of(said):
        raise _not_whole()
    if said[0] != OURS.wire:
        raise UsageError(why_not_together(Version(said[0], ""), "The cluster of this invitation"))
    return _read(_Reader(said[1:]))


def _read(reader: _Reader) -> Payload:
    try:
        fingerprint, token = reader.take(_FINGERPRINT_BYTES), reader.take(TOKEN_BYTES)
        addresses = tuple(_address(reader) for _ in range(reader.take(1)[0]))
        if reader.rest or len(addresses) > MOST_ADDRESSES:
            raise ValueError("there is more")
    except ValueError as cause:
        raise _not_whole() from cause
    return Payload(fingerprint, token, addresses)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.rest = content

    def take(self, count: int) -> bytes:
        """Raises ValueError where there is less."""
        if len(self.rest) < count:
            raise ValueError("it ends too early")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


def _packed(address: Address) -> bytes:
    port = address.port.to_bytes(2, "big")
    try:
        number = ipaddress.ip_address(address.host)
    except ValueError:
        name = address.host.encode("ascii")
        return bytes([_NAMED, len(name)]) + name + port
    return bytes([number.version]) + number.packed + port


def _address(reader: _Reader) -> Address:
    """Raises ValueError where it is none."""
    kind = reader.take(1)[0]
    if kind == _NAMED:
        host = reader.take(reader.take(1)[0]).decode("ascii")
    elif kind in (4, 6):
        host = str(ipaddress.ip_address(reader.take(4 if kind == 4 else 16)))
    else:
        raise ValueError("an address of an unknown kind")
    address = address_of(host, int.from_bytes(reader.take(2), "big"))
    if address is None:
        raise ValueError("nothing can be dialled there")
    return address


def _sum_of(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_SUM_BYTES]


def _not_whole() -> UsageError:
    return UsageError(
        "This is not a whole invitation of shardnet: something of it is missing or changed. Scan or copy it again, or "
        "type the short code instead."
    )
