"""What a repository has at one commit, as the hub says: asked for once, and kept, so that a cut download is known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.plain_files import read_json
from shardnet.loader.hub.names import HubName
from shardnet.loader.hub.trying import trying
from shardnet.loader.whole_files import write_whole

COMMIT = re.compile(r"[0-9a-f]{40}")
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MOST_LIST_BYTES = 16 << 20
ASKING_TIMEOUT_S = 30.0


class HubFile(NamedTuple):
    """One file of a repository."""

    num_bytes: int
    oid: str
    """Of a large file its sha256, of a small one what git calls it (a sha1 that begins with the size)."""


@dataclass(frozen=True)
class Listing:
    """All files of a repository at one commit."""

    commit: str
    files: Mapping[str, HubFile]

    def bytes_of(self, names: list[str]) -> int:
        """What these files have together."""
        return sum(self.files[name].num_bytes for name in names)


def ask_for(name: HubName, revision: str) -> Listing:
    """The hub's own answer. Args: `revision`, empty for the newest.

    Raises:
        ModelNotFound: see `refusals`.
    """
    from huggingface_hub import HfApi

    asked = partial(HfApi().model_info, name.repo, revision=revision or None, timeout=ASKING_TIMEOUT_S)
    info = trying(name, lambda: asked(files_metadata=True))
    files = {each.rfilename: file for each in info.siblings or () if (file := _file_of(each)) is not None}
    return Listing(str(info.sha), files)


def _file_of(sibling: Any) -> HubFile | None:
    """None where the hub says too little of it, as old mirrors do."""
    large = sibling.lfs
    size = large.size if large is not None else sibling.size
    oid = large.sha256 if large is not None else sibling.blob_id
    is_whole = isinstance(size, int) and isinstance(oid, str) and bool(_OID.fullmatch(oid))
    return HubFile(size, oid) if is_whole else None


def kept(folder: Path, commit: str) -> Listing | None:
    """What was kept of it by `keep`; None where nothing was, or it cannot be read."""
    with suppress(DamagedCheckpoint, TypeError, ValueError, AttributeError):
        files = read_json(_path(folder, commit), MOST_LIST_BYTES, "the list", DamagedCheckpoint)
        return Listing(commit, {name: HubFile(int(size), str(oid)) for name, (size, oid) in files.items()})
    return None


def keep(folder: Path, listing: Listing) -> None:
    """Write it down. Where that cannot be done it is asked for again."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_path(folder, listing.commit), json.dumps(dict(listing.files)).encode())


def _path(folder: Path, commit: str) -> Path:
    return folder / f"{commit}.json"
