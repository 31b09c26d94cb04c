"""Which release has written what lies in a state folder, and in which format: a note in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shardnet.errors import UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.foreign.quoting import shortened
from shardnet.versions import OURS, OWN, is_release, why_not_read

NAME = "format.json"
MOST_BYTES = 2**10


def note() -> bytes:
    """What this release writes down."""
    return json.dumps({"state": OURS.state, "shardnet": OWN.release}).encode()


def require_readable(folder: Path) -> bool:
    """See that this release reads what lies there; returns whether it has written the note itself.

    Raises:
        UsageError: it has another format, or the note is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return False
    said: Any = read_json(path, MOST_BYTES, "the note of its format", UsageError)
    note_there = said if isinstance(said, dict) else {}
    state, release = note_there.get("state"), note_there.get("shardnet", "")
    if type(state) is not int or not is_release(release):
        raise UsageError(f"{path} is damaged. Remove it where {OWN.name} has written the other files there, too.")
    why_not = why_not_read(state, release, f"The folder {shortened(str(folder))}")
    if why_not is not None:
        raise UsageError(why_not)
    return bool(release == OWN.release)
