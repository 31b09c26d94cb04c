"""Private keys: each made on the machine that uses it, kept there for its user alone, and never sent anywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shardnet.process.state_folder import StateFolder
from shardnet.trust.own_files import damaged, keep, read_own

PrivateKey = ec.EllipticCurvePrivateKey
MOST_BYTES = 2**12
"""Of a file with a key."""


def own_key(state: StateFolder, name: str) -> PrivateKey:
    """The key in a file of a state folder, made where there is none.

    Raises:
        UsageError: it is damaged, others could read it, or it cannot be written.
    """
    key = key_in(state.path / name)
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        content = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        keep(state, name, content)
    return key


def key_in(path: Path) -> PrivateKey | None:
    """The key in a file; None where there is none.

    Raises:
        UsageError: it is damaged, or others could read it.
    """
    content = read_own(path, MOST_BYTES)
    if content is None:
        return None
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as cause:
        raise damaged(path) from cause
    if not is_ours(key):
        raise damaged(path)
    assert isinstance(key, PrivateKey)
    return key


def is_ours(key: Any) -> bool:
    """Whether a key, private or public, is of the only kind that clusters use: on the curve P-256."""
    is_elliptic = isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey))
    return is_elliptic and isinstance(key.curve, ec.SECP256R1)


def fingerprint_of(key: Any) -> bytes:
    """SHA-256 of a public key as it stands in certificates (SubjectPublicKeyInfo)."""
    content = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(content).digest()
