"""A register as a file, with a sum by which a damaged one is noticed: nobody is trusted because a file is damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from shardnet.errors import UsageError
from shardnet.foreign.plain_files import parse_json
from shardnet.trust.own_files import damaged, read_own
from shardnet.trust.register import Entry, Register

NAME = "register.json"
MOST_BYTES = 2**22


def file_of(register: Register) -> bytes:
    """The content of its file."""
    entries = [[f"{each.serial:x}", each.name, each.key.hex(), *each[3:]] for each in register.entries]
    return json.dumps({"sha256": _sum_of(entries), "entries": entries}).encode()


def register_in(folder: Path) -> Register | None:
    """The register in a folder; None where there is none.

    Raises:
        UsageError: it is damaged, or others could have changed it.
    """
    path = folder / NAME
    content = read_own(path, MOST_BYTES)
    if content is None:
        return None
    try:
        return _register_of(parse_json(content.decode(), "the register"))
    except (UsageError, KeyError, TypeError, ValueError, AttributeError) as cause:
        raise damaged(path) from cause


def _register_of(value: Any) -> Register:
    entries = value["entries"]
    if value["sha256"] != _sum_of(entries):
        raise ValueError("its sum is another one")
    return Register(tuple(_entry_of(*each) for each in entries))


def _entry_of(serial: str, name: str, key: str, since_s: float, until_s: float, revoked_s: float | None) -> Entry:
    revoked = None if revoked_s is None else float(revoked_s)
    return Entry(int(serial, 16), str(name), bytes.fromhex(key), float(since_s), float(until_s), revoked)


def _sum_of(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
