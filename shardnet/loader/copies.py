"""A checkpoint as it lies on this machine: what tells that it is unchanged, and how its names lead to bytes.

Messages name a checkpoint and its tensors by what is in them (`parts`), and each device finds its own copy
(`copy_index`). Paths never travel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.plain_files import read_bytes
from shardnet.loader.folder import MOST_CONFIG_BYTES
from shardnet.loader.parts import checkpoint_name, cut, is_local, local_name, local_root, part_hash
from shardnet.loader.places import TensorPlace

CONFIG = "config.json"
LOOKS = 16
"""About so many parts of a file that has changed: what was trained further is another model nearly everywhere."""


class FileStamp(NamedTuple):
    """What tells cheaply that a file is the one that was seen before, wherever its folder has been moved."""

    disk: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int
    """Set by the system alone: catches a file that was rewritten and given its old date again."""


def stamp_of(path: str | Path) -> FileStamp:
    """The stamp of a file now.

    Raises:
        OSError: it is gone.
    """
    status = os.stat(path)
    return FileStamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Copy:
    """A checkpoint in a folder of this machine."""

    name: str
    """The checkpoint's name: by content, or for this machine only (`parts.is_local`)."""
    folder: Path
    config: str
    """The hash of `config.json`."""
    stamps: dict[str, FileStamp]
    """Of the weight files when they were looked at, by path."""
    tensors: dict[str, TensorPlace]
    """By their names in the checkpoint."""
    hashes: dict[str, tuple[str, ...]]
    """Of each tensor's parts, by its root. Empty where the weights were not hashed."""

    @property
    def is_local(self) -> bool:
        return is_local(self.name)

    def files_are(self) -> bool:
        """Whether its files are there, whatever they hold."""
        return (self.folder / CONFIG).is_file() and all(os.path.isfile(path) for path in self.stamps)

    def is_unchanged(self) -> bool:
        """Whether all its files are as they were."""
        return self.files_are() and all(stamp_of(path) == stamp for path, stamp in self.stamps.items())

    def may_be_whole(self) -> bool:
        """Whether a short look finds nothing else in its files: of those that have changed some parts are read, and
        the configuration. `places_of` finds the rest.
        """
        changed = [path for path, stamp in self.stamps.items() if stamp_of(path) != stamp]
        if not changed or self.is_local:
            return True
        if part_hash(config_of(self.folder)) != self.config:
            return False
        tensors = [place for place in self.tensors.values() if place.file in changed and place.num_bytes]
        step = max(len(tensors) // (LOOKS * len(changed)), 1)
        return all(_has_first_part(place, self.hashes[place.root]) for place in tensors[::step])

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """In this block its files are compared and read, and are the same all the time.

        Raises:
            DamagedCheckpoint: at the end: one was changed meanwhile.
        """
        before = {path: stamp_of(path) for path in self.stamps}
        yield
        after = {path: stamp_of(path) for path in before if os.path.isfile(path)}
        changed = next((path for path, stamp in before.items() if after.get(path) != stamp), None)
        if changed is not None:
            raise being_changed(changed)

    def places_of(self, roots: Mapping[str, str]) -> dict[str, TensorPlace]:
        """Where tensors lie here, by what the caller calls them; a file that has changed is read and compared first.

        Raises:
            DamagedCheckpoint: what lies here is not what the names stand for.
        """
        if part_hash(config_of(self.folder)) != self.config:
            raise DamagedCheckpoint(f"{self.folder / CONFIG} has changed since its model was opened. Load it again.")
        by_root = {place.root: (name, place) for name, place in self.tensors.items()}
        changed = {path for path, stamp in self.stamps.items() if stamp_of(path) != stamp}
        places: dict[str, TensorPlace] = {}
        for asked, root in roots.items():
            if root not in by_root:
                raise DamagedCheckpoint(f"The checkpoint {self.name[:16]} holds no {asked} as it is asked for.")
            name, places[asked] = by_root[root]
            if places[asked].file in changed:
                self._compare(name, places[asked])
        return places

    def _compare(self, name: str, place: TensorPlace) -> None:
        hashes = self.hashes.get(place.root)
        if hashes is None:
            raise DamagedCheckpoint(f"{place.file} has changed since its model was opened. Load the model again.")
        verify(name, place, hashes)


def being_changed(path: str | Path) -> DamagedCheckpoint:
    """The error for a file whose beginning and end may be of different contents."""
    return DamagedCheckpoint(f"{path} is being changed. Load the model again when it is whole.")


def _has_first_part(place: TensorPlace, hashes: tuple[str, ...]) -> bool:
    _, size = cut(place.num_bytes)[0]
    with open(place.file, "rb", buffering=0) as file:
        return part_hash(os.pread(file.fileno(), size, place.offset)) == hashes[0]


def verify(name: str, place: TensorPlace, hashes: tuple[str, ...]) -> None:
    """Read a tensor and compare all its parts.

    Args:
        name: what messages call it.
        hashes: of its parts, as they should be.

    Raises:
        DamagedCheckpoint: a part is another; says which.
    """
    with open(place.file, "rb", buffering=0) as file:
        for number, ((first, size), expected) in enumerate(zip(cut(place.num_bytes), hashes, strict=True), start=1):
            if part_hash(os.pread(file.fileno(), size, place.offset + first)) != expected:
                raise DamagedCheckpoint(
                    f"{place.file} is damaged: part {number} of {len(hashes)} of the tensor {name} (from byte "
                    f"{place.offset + first} on) is not what it was. Download it again."
                )


def config_of(folder: Path) -> bytes:
    """The content of a folder's `config.json`.

    Raises:
        DamagedCheckpoint: it cannot be read.
    """
    return read_bytes(folder / CONFIG, MOST_CONFIG_BYTES, "the configuration", DamagedCheckpoint)


def look_at(folder: Path, stored: Mapping[str, TensorPlace]) -> Copy:
    """The checkpoint of a folder under its name on this machine: reads no weights.

    Args:
        stored: its tensors, as `index_folder` finds them.
    """
    stamps: dict[str, FileStamp] = {}
    tensors: dict[str, TensorPlace] = {}
    for name, place in stored.items():
        file = os.path.abspath(place.file)
        if file not in stamps:
            stamps[file] = stamp_of(file)
        root = local_root(stamps[file], place.offset, place.dtype, place.shape)
        tensors[name] = place._replace(file=file, root=root)
    config = config_of(folder)
    called = local_name(config, {name: place.root for name, place in tensors.items()})
    return Copy(called, folder.absolute(), part_hash(config), stamps, tensors, {})


def renamed(copy: Copy, hashes: Mapping[str, tuple[str, ...]], roots: Mapping[str, str]) -> Copy:
    """The same copy under its name by content. Args: `hashes` and `roots` by the tensors' names."""
    tensors = {name: place._replace(root=roots[name]) for name, place in copy.tensors.items()}
    name = checkpoint_name(config_of(copy.folder), roots)
    return replace(copy, name=name, tensors=tensors, hashes={roots[name]: hashes[name] for name in tensors})
