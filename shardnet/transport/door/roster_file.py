"""A roster as a file, with a sum by which a damaged one is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from shardnet.errors import UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.transport.door.roster import Member, Roster, RosterState, new_roster

NAME = "roster.json"
MOST_BYTES = 2**25
"""Of a file: more than all the ids that there are need."""


def file_of(roster: Roster) -> bytes:
    """The content of its file."""
    state = roster.state
    members = [
        [each.id, each.name, each.address, each.secret_hash.hex(), each.process, each.host, version]
        for each, version in state.members
    ]
    content = {
        "version": state.version,
        "last_id": state.last_id,
        "members": members,
        "left": [list(each) for each in state.left],
        "drawn": dict(state.drawn),
    }
    return json.dumps({"sha256": _sum_of(content), "roster": content}).encode()


def roster_in(folder: Path) -> Roster:
    """The roster of a cluster that was there before; a new one where there is none.

    Raises:
        UsageError: the file is torn, or not one of ours.
    """
    path = folder / NAME
    if not path.exists():
        return new_roster()
    try:
        return _roster_of(read_json(path, MOST_BYTES, "the roster", UsageError))
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as cause:
        reason = str(cause) if isinstance(cause, (UsageError, ValueError)) else "it is no roster"
        raise UsageError(
            f"{path} is damaged, or of another version of shardnet ({reason.rstrip('.')}). Remove it to begin this "
            "cluster anew: its devices join again."
        ) from cause


def _roster_of(value: Any) -> Roster:
    content = value["roster"]
    if value["sha256"] != _sum_of(content):
        raise ValueError("its sum is another one")
    members = tuple((_member_of(*fields), int(version)) for *fields, version in content["members"])
    left = tuple((int(member_id), int(version)) for member_id, version in content["left"])
    drawn = {str(counter): int(last) for counter, last in content["drawn"].items()}
    return Roster(RosterState(int(content["version"]), int(content["last_id"]), members, left, drawn))


def _member_of(member_id: int, name: str, address: str, secret_hash: str, process: str, host: str) -> Member:
    return Member(int(member_id), str(name), str(address), bytes.fromhex(secret_hash), str(process), str(host))


def _sum_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
