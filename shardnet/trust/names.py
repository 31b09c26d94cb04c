"""What a host is called in its certificate, and how TLS checks it."""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv6Address

from shardnet.errors import UsageError
from shardnet.foreign.quoting import quoted

COORDINATOR = "coordinator"
"""The host whose gate leads to the coordinator: whoever dials it expects this name. Nobody is invited under it."""
MOST_NAME = 63
_FORM = re.compile(rf"[A-Za-z0-9]([A-Za-z0-9._-]{{0,{MOST_NAME - 2}}}[A-Za-z0-9])?")


def is_name(name: str) -> bool:
    """Whether a host may be called so."""
    return _FORM.fullmatch(name) is not None


def require_name(name: str) -> None:
    """See that a host that is invited may be called so.

    Raises:
        UsageError: it may not.
    """
    if not is_name(name) or name.lower() == COORDINATOR:
        raise UsageError(
            f"A device is called by 1 to {MOST_NAME} letters and digits, with - _ . between them, and not "
            f"{COORDINATOR}; {quoted(name)} cannot be its name. Choose another one with --name."
        )


def mark_of(authority: bytes, name: str) -> IPv6Address:
    """What stands for a name in a certificate, and is asked for in a handshake (`server_hostname`).

    It looks like an address, and nobody can be dialled there: TLS libraries compare it bit by bit where names may have
    wildcards, and do not say it in clear before the connection is encrypted, as they do with names.

    Args:
        authority: the fingerprint of the cluster's authority, so that a host has another mark in another cluster.
    """
    digest = hashlib.sha256(b"shardnet name\0" + authority + name.encode()).digest()
    return IPv6Address(b"\xfd" + digest[:15])
