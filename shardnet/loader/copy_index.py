"""By which a checkpoint's name leads to the copy that this machine has of it.

A copy that is loaded is entered in folders with one JSON file for each name: in the cache folder, where later processes
with that cache folder find it, and in one that all processes of this user on this machine share, since devices need not
have the coordinator's cache folder, and no path may travel.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shardnet.errors import BadConfiguration
from shardnet.loader.copies import Copy, FileStamp
from shardnet.loader.places import TensorPlace
from shardnet.loader.whole_files import write_json

FORMAT = 1
"""Of the entries; others are as good as none."""


class CopyIndex:
    """A folder with one file for each checkpoint of which this machine has a copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, copy: Copy) -> None:
        """Enter a copy in place of what was known under its name.

        Raises:
            OSError: the folder cannot be written to.
        """
        write_json(self._folder / f"{copy.name}.json", {"format": FORMAT, **_as_dict(copy)})

    def find(self, name: str) -> Copy | None:
        """The copy that was entered under a name, and whose files are still there."""
        if not name.replace("-", "").isalnum():
            return None  # no name of ours, and perhaps a path
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            values = json.loads((self._folder / f"{name}.json").read_text())
            if values["format"] == FORMAT and values["name"] == name:
                copy = _from_dict(values)
                return copy if copy.files_are() else None
        return None


def indices(cache_dir: Path) -> list[CopyIndex]:
    """Where this machine's copies are entered: the folder that its processes share, and the cache folder's."""
    shared = _shared_folder()
    folders = [cache_dir] if shared is None else [shared, cache_dir]
    return [CopyIndex(folder / "checkpoints") for folder in folders]


def enter(copy: Copy, cache_dir: Path) -> None:
    """Let the devices of this machine find a copy.

    Raises:
        BadConfiguration: there is no folder where it could be entered.
    """
    reasons = []
    known = indices(cache_dir)
    for index in known:
        try:
            index.add(copy)
        except OSError as cause:
            reasons.append(cause.strerror or str(cause))
    if len(reasons) == len(known):
        raise BadConfiguration(
            f"The devices cannot be told where {copy.folder.name} lies: neither {cache_dir} ({reasons[-1]}) nor this "
            "user's folder for temporary files can be written. "
            "Make room, or set SHARDNET_CACHE or TMPDIR to other folders."
        )


def _shared_folder() -> Path | None:
    """This user's folder on this machine; None where there can be none. In it, nobody else can enter anything."""
    try:
        folder = Path(tempfile.gettempdir(), f"shardnet-{os.geteuid()}")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:
        return None
    is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return folder if stat.S_ISDIR(status.st_mode) and is_own else None


def _as_dict(copy: Copy) -> dict[str, Any]:
    files = list(copy.stamps)
    return {
        "name": copy.name,
        "folder": str(copy.folder),
        "config": copy.config,
        "files": [[file, *copy.stamps[file]] for file in files],
        "tensors": {name: [files.index(place.file), *place[1:]] for name, place in copy.tensors.items()},
        "hashes": copy.hashes,
    }


def _from_dict(values: Mapping[str, Any]) -> Copy:
    stamps = {file: FileStamp(*stamp) for file, *stamp in values["files"]}
    files = list(stamps)
    return Copy(
        name=values["name"],
        folder=Path(values["folder"]),
        config=values["config"],
        stamps=stamps,
        tensors={
            name: TensorPlace(files[file], offset, num_bytes, dtype, tuple(shape), root)
            for name, (file, offset, num_bytes, dtype, shape, root) in values["tensors"].items()
        },
        hashes={root: tuple(hashes) for root, hashes in values["hashes"].items()},
    )
