"""Tensors that were fetched, in the cache folder: a file for each root, parts where they lie in the tensor.

    fetched/checkpoints/NAME/      `config.json`, and `list.json` with the root of every tensor
    fetched/tensors/ROOT.bin       its bytes; holes where parts are still to come
    fetched/tensors/ROOT.json      its parts' hashes, and the stamp of the file when it was whole

Which parts of an unfinished tensor are there is kept nowhere: they are read and compared with their hashes. So neither
a killed process nor a lost power supply leaves anything behind that passes for what it is not.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.errors import DamagedCheckpoint, DoesNotFit, ModelNotFound
from shardnet.loader.checkpoint import MOST_DIMENSIONS, MOST_SIZE
from shardnet.loader.copies import CONFIG, Copy, FileStamp, stamp_of
from shardnet.loader.folder import MOST_CONFIG_BYTES
from shardnet.loader.parts import checkpoint_name, cut, part_hash, tensor_root
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import bytes_of
from shardnet.loader.whole_files import remove_leftovers, write_json, write_whole
from shardnet.shipping.folder_locks import FolderLocks
from shardnet.shipping.space import Kept, to_remove
from shardnet.transport.shipping_messages import CheckpointList, TensorParts

MOST_TENSORS = 100_000
"""Of one checkpoint: 48 blocks of 128 experts have 18,900."""
MOST_LISTS = 16
"""Checkpoints that are known here; those that were told least lately are forgotten."""
LEAST_FREE_BYTES = 1 << 30
"""Of the disk, that stay free; on a small one its twentieth part, where that is less."""
_HEX = frozenset("0123456789abcdef")


def is_root(root: str) -> bool:
    """Whether it is a hash, and so no path either."""
    return len(root) == 64 and _HEX.issuperset(root)


def num_bytes_of(parts: TensorParts) -> int:
    """
    Raises:
        DamagedCheckpoint: it is no list of a tensor's parts.
    """
    is_shape = len(parts.shape) <= MOST_DIMENSIONS and all(0 <= size <= MOST_SIZE for size in parts.shape)
    num_bytes = bytes_of(parts.dtype, parts.shape) if is_shape else None
    if num_bytes is None or num_bytes > MOST_SIZE or len(parts.hashes) != len(cut(num_bytes)):
        raise DamagedCheckpoint("A list of a tensor's parts is none. Fetch it again.")
    return num_bytes


class Store:
    """Of one device.

    Args:
        name: of the device, for messages.
        folder: in its cache folder.
        most_bytes: that all tensors here may take; None leaves it to the disk.
        in_use: the roots of those that must stay.
    """

    def __init__(self, name: str, folder: Path, most_bytes: int | None) -> None:
        self._name = name
        self._lists = folder / "checkpoints"
        self._tensors = folder / "tensors"
        self._most_bytes = most_bytes
        self._there: dict[str, set[int]] = {}
        """The parts of unfinished tensors that are known to be there."""
        self._pinned: Counter[str] = Counter()
        self._locks: FolderLocks | None = None
        """Made when they are first needed."""
        self._lock = threading.Lock()

    # ---- checkpoints ----

    def enter(self, name: str, what: CheckpointList) -> None:
        """Remember what a checkpoint is made of.

        Raises:
            DamagedCheckpoint: it is another one than its name says.
            DoesNotFit: the disk is full.
        """
        is_small = len(what.config) <= MOST_CONFIG_BYTES and len(what.roots) <= MOST_TENSORS
        if not is_small or checkpoint_name(what.config, what.roots) != name:
            raise DamagedCheckpoint(f"What came as the checkpoint {name[:16]} is another one. Load the model again.")
        folder = self._lists / name
        with self._telling_of_the_disk():
            folder.mkdir(parents=True, exist_ok=True)
            self._forget_lists(name)
            write_whole(folder / CONFIG, what.config)
            write_json(folder / "list.json", what.roots)

    def _forget_lists(self, new: str) -> None:
        """All but the newest ones."""
        told_s: dict[Path, float] = {}
        for folder in self._lists.iterdir():
            with suppress(FileNotFoundError):  # another process has just forgotten it
                if folder.name != new:
                    told_s[folder] = folder.stat().st_mtime
        for folder in sorted(told_s, key=lambda each: told_s[each])[: max(0, len(told_s) - MOST_LISTS + 1)]:
            shutil.rmtree(folder, ignore_errors=True)

    def roots(self, name: str) -> dict[str, str] | None:
        """Of a checkpoint's tensors, by their names in it; None where it is not known here."""
        if not is_root(name):
            return None
        with suppress(OSError, ValueError):
            roots = json.loads((self._lists / name / "list.json").read_text())
            return roots if isinstance(roots, dict) else None
        return None

    def folder_of(self, name: str) -> Path | None:
        """Where a checkpoint's `config.json` lies; None where it is not known here."""
        folder = self._lists / name
        return folder if is_root(name) and (folder / CONFIG).is_file() else None

    def copy_of(self, name: str, roots: Collection[str]) -> Copy:
        """The tensors of a checkpoint that lie here, as the loader reads them.

        Raises:
            ModelNotFound: one is not here.
        """
        folder = self.folder_of(name)
        stamps: dict[str, FileStamp] = {}
        tensors: dict[str, TensorPlace] = {}
        hashes: dict[str, tuple[str, ...]] = {}
        for root in roots:
            parts, stamp = self._known(root) or (None, None)
            if folder is None or parts is None or stamp is None:
                raise ModelNotFound(f"The tensor {root[:16]} was not fetched yet. Load the model again.")
            file = str(self._file(root))
            stamps[file] = stamp
            tensors[root] = TensorPlace(file, 0, num_bytes_of(parts), parts.dtype, parts.shape, root)
            hashes[root] = parts.hashes
            with suppress(OSError):
                os.utime(self._json(root))  # it is in use again
        assert folder is not None or not roots, "asked for above"
        config = b"" if folder is None else (folder / CONFIG).read_bytes()
        return Copy(name, folder or self._lists, part_hash(config), stamps, tensors, hashes)

    # ---- tensors ----

    def parts_of(self, root: str) -> TensorParts | None:
        """What a tensor is made of, where that came already."""
        known = self._known(root)
        return None if known is None else known[0]

    def is_whole(self, root: str) -> bool:
        """Whether all of a tensor is here, and its file as it was then."""
        known = self._known(root)
        return known is not None and self._is_as_it_was(root, known[1])

    def _is_as_it_was(self, root: str, stamp: FileStamp | None) -> bool:
        """Whether the file is there with that stamp, where it has one."""
        with suppress(OSError):
            return stamp is not None and stamp_of(self._file(root)) == stamp
        return False

    def begin(self, root: str, parts: TensorParts) -> list[int]:
        """Make a place for a tensor; returns the parts of it that lack. What lies there is read and compared.

        Raises:
            DamagedCheckpoint: the parts are another tensor's.
            DoesNotFit: the disk is full.
        """
        num_bytes = num_bytes_of(parts)
        if tensor_root(parts.dtype, parts.shape, parts.hashes) != root:
            raise DamagedCheckpoint(f"The parts of the tensor {root[:16]} are another one's. Load the model again.")
        if self.is_whole(root):
            return []
        with self._telling_of_the_disk():
            self._tensors.mkdir(parents=True, exist_ok=True)
            self._write_known(root, parts, None)
            with open(self._file(root), "ab") as file:
                file.truncate(num_bytes)
                file.flush()
        there = set(self._compared(root, parts, num_bytes))
        with self._lock:
            self._there[root] = there
        lacking = [part for part in range(len(parts.hashes)) if part not in there]
        if not lacking:
            self._finish(root, parts)
        return lacking

    def claim(self, root: str) -> bool:
        """Whether this process is who fetches a tensor; False while another one with this cache folder does.

        Raises:
            DoesNotFit: the disk is full.
        """
        with self._lock, self._telling_of_the_disk():
            return self._opened().claim(root)

    def release(self, root: str) -> None:
        """It fetches it no more."""
        if self._locks is not None:
            self._locks.release(root)

    def close(self) -> None:
        """Claim and keep nothing any more."""
        if self._locks is not None:
            self._locks.close()

    def _opened(self) -> FolderLocks:
        """The caller holds the lock of threads."""
        if self._locks is None:
            self._tensors.mkdir(parents=True, exist_ok=True)
            self._locks = FolderLocks(self._tensors)
        return self._locks

    def write(self, root: str, part: int, data: memoryview) -> bool:
        """Keep a part; False where it is not what its hash says.

        Raises:
            DoesNotFit: the disk is full.
        """
        parts = self.parts_of(root)
        assert parts is not None, "begun"
        if part_hash(data) != parts.hashes[part]:
            return False
        first, _ = cut(num_bytes_of(parts))[part]
        with self._telling_of_the_disk(), open(self._file(root), "r+b", buffering=0) as file:
            while data:
                written = os.pwrite(file.fileno(), data, first)
                first, data = first + written, data[written:]
        with self._lock:
            self._there[root].add(part)
            is_whole = len(self._there[root]) == len(parts.hashes)
        if is_whole:
            self._finish(root, parts)
        return True

    def place_of(self, root: str, part: int) -> TensorPlace | None:
        """Where a tensor lies of which that part is here; None where it is not."""
        known = self._known(root)
        with self._lock:
            is_there = part in self._there.get(root, ())
        if known is None or not (is_there or self._is_as_it_was(root, known[1])):
            return None
        return TensorPlace(str(self._file(root)), 0, num_bytes_of(known[0]), known[0].dtype, known[0].shape, root)

    @contextmanager
    def kept(self, roots: Collection[str]) -> Iterator[None]:
        """In this block these stay, whichever process wants their room.

        Raises:
            DoesNotFit: the disk is full.
        """
        with self._lock, self._telling_of_the_disk():
            locks = self._opened()
            for root in roots:
                locks.keep(root)
            self._pinned.update(roots)
        try:
            yield
        finally:
            with self._lock:
                self._pinned.subtract(roots)
                for root in roots:
                    if not self._pinned[root]:
                        del self._pinned[root]
                        locks.let_go(root)

    def make_room(self, num_bytes: int, in_use: Collection[str]) -> None:
        """Let tensors go that were not used for the longest time, until so many bytes more may come, besides what
        others are about to fetch.

        Args:
            in_use: what stays.

        Raises:
            DoesNotFit: all that may go does not give that much.
        """
        if num_bytes == 0:
            return
        with self._lock, self._telling_of_the_disk():
            locks = self._opened()
            remove_leftovers(self._tensors)
            found = dict(_found_in(self._tensors))
            disk = shutil.disk_usage(self._tensors)
            free_bytes = disk.free - min(LEAST_FREE_BYTES, disk.total // 20)
            if self._most_bytes is not None:
                free_bytes = min(free_bytes, self._most_bytes - sum(taken.now_bytes for taken in found.values()))
            with locks.idle(found.keys() - self._pinned.keys()) as idle:
                to_come_bytes = sum(taken.to_come_bytes for root, taken in found.items() if root not in idle)
                free_bytes -= max(to_come_bytes - num_bytes, 0)
                may_go = [Kept(root, found[root].now_bytes, self._used_s(root)) for root in idle.difference(in_use)]
                gone = to_remove(may_go, num_bytes - free_bytes)
                if gone is None:
                    raise self._too_small(num_bytes, max(free_bytes, 0) + sum(kept.num_bytes for kept in may_go))
                for root in gone:
                    self._there.pop(root, None)
                    for path in (self._json(root), self._file(root)):
                        with suppress(FileNotFoundError):
                            path.unlink()

    def _too_small(self, num_bytes: int, room_bytes: int) -> DoesNotFit:
        limit = "" if self._most_bytes is None else ", or give it a larger --cache-gib"
        return DoesNotFit(
            f"{self._name} is to fetch {num_bytes / 2**20:.0f} MiB of weights, and its disk has room for "
            f"{room_bytes / 2**20:.0f} MiB of them. Make room there{limit}."
        )

    @contextmanager
    def _telling_of_the_disk(self) -> Iterator[None]:
        """
        Raises:
            DoesNotFit: the system says that the disk is full, or cannot be written.
        """
        try:
            yield
        except OSError as cause:
            raise DoesNotFit(
                f"{self._name} cannot keep weights on its disk: {cause.strerror or cause}. Make room there, or set "
                "SHARDNET_CACHE to a folder on another disk."
            ) from cause

    def _used_s(self, root: str) -> float:
        with suppress(OSError):
            return self._json(root).stat().st_mtime
        return 0.0

    def _compared(self, root: str, parts: TensorParts, num_bytes: int) -> Iterator[int]:
        """The parts that lie in its file as they should be."""
        with open(self._file(root), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_blocks == 0:
                return  # nothing came yet
            for part, (first, size) in enumerate(cut(num_bytes)):
                if part_hash(os.pread(file.fileno(), size, first)) == parts.hashes[part]:
                    yield part

    def _finish(self, root: str, parts: TensorParts) -> None:
        """All is here: from now on its file's stamp says so."""
        with self._telling_of_the_disk():
            with open(self._file(root), "r+b", buffering=0) as file:
                os.fsync(file.fileno())
            self._write_known(root, parts, stamp_of(self._file(root)))

    def _write_known(self, root: str, parts: TensorParts, stamp: Sequence[int] | None) -> None:
        write_whole(self._json(root), json.dumps({**parts._asdict(), "stamp": stamp}).encode())

    def _known(self, root: str) -> tuple[TensorParts, FileStamp | None] | None:
        """A tensor's parts, and the stamp of its file where that was whole."""
        if not is_root(root):
            return None
        try:
            values: Mapping[str, Any] = json.loads(self._json(root).read_text())
            parts = TensorParts(values["dtype"], tuple(values["shape"]), tuple(values["hashes"]))
            stamp = values["stamp"]
            return parts, None if stamp is None else FileStamp(*stamp)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _file(self, root: str) -> Path:
        return self._tensors / f"{root}.bin"

    def _json(self, root: str) -> Path:
        return self._tensors / f"{root}.json"


class _Taken(NamedTuple):
    """By a file."""

    now_bytes: int
    to_come_bytes: int
    """Where it has holes, which whoever keeps it is about to fill."""


def _found_in(folder: Path) -> Iterator[tuple[str, _Taken]]:
    """The tensors of a folder, by root."""
    for path in folder.glob("*.bin"):
        with suppress(FileNotFoundError):  # another process has just removed it
            status = path.stat()
            now_bytes = status.st_blocks * 512
            yield path.stem, _Taken(now_bytes, max(status.st_size - now_bytes, 0))
