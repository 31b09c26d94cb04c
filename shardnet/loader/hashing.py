"""Hashes the weights of a checkpoint, each file once, so that it has a name by content (`parts`).

What was hashed is kept in the cache folder, a JSON file for each weight file, under the file's stamp: a file that has
changed since is hashed again, one whose folder was moved is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from shardnet.loader.copies import Copy, FileStamp, being_changed, renamed, stamp_of
from shardnet.loader.parts import cut, part_hash, tensor_root
from shardnet.loader.places import TensorPlace
from shardnet.loader.whole_files import write_json
from shardnet.profiling.cores import max_threads
from shardnet.progress import Progress

FORMAT = 1
"""Of the files in which hashes are kept; others are made anew."""
AT_ONCE_BYTES = 1 << 30
"""So much is hashed without being asked for: it takes less than a second where the processor helps."""
MOST_THREADS = 8
CLOCK_TICK_S = 0.02
"""Changes that follow each other faster may get the same time from the system."""
SHOW_AFTER_S = 0.5

Hashes = dict[str, tuple[str, ...]]
"""Of a file's tensors, by name: of all parts of each."""


def fingerprint(
    copy: Copy, cache_dir: Path, progress: Progress | None = None, *, most_bytes: int | None = None
) -> Copy | None:
    """The same copy under its name by content.

    Args:
        cache_dir: where hashes are kept; if it cannot be written, they are made again each time.
        most_bytes: None is returned where more would have to be read.

    Raises:
        DamagedCheckpoint: a file is being changed.
    """
    if not copy.is_local:
        return copy
    hashes: Hashes = {}
    todo: dict[str, dict[str, TensorPlace]] = {}
    for file, tensors in _tensors_by_file(copy).items():
        kept = _kept(cache_dir, copy.stamps[file], tensors)
        if kept is None:
            todo[file] = tensors
        else:
            hashes |= kept
    num_bytes = sum(place.num_bytes for tensors in todo.values() for place in tensors.values())
    if most_bytes is not None and num_bytes > most_bytes:
        return None
    told = _Told(f"fingerprinting {copy.folder.name}, once", num_bytes, progress)
    for file, tensors in todo.items():
        made = _hash_file(file, copy.stamps[file], tensors, told)
        keep(cache_dir, copy.stamps[file], made)
        hashes |= made
    roots = {name: tensor_root(place.dtype, place.shape, hashes[name]) for name, place in copy.tensors.items()}
    return renamed(copy, hashes, roots)


def _tensors_by_file(copy: Copy) -> dict[str, dict[str, TensorPlace]]:
    files: dict[str, dict[str, TensorPlace]] = {file: {} for file in copy.stamps}
    for name, place in copy.tensors.items():
        files[place.file][name] = place
    return files


def keep(cache_dir: Path, stamp: FileStamp, hashes: Mapping[str, tuple[str, ...]]) -> None:
    """Keep the hashes of a file's tensors, where that is possible."""
    with suppress(OSError):
        write_json(_path(cache_dir, stamp), {"format": FORMAT, "hashes": hashes})


class _Told:
    """Tells how far hashing is, once it takes long enough to wonder."""

    def __init__(self, what: str, num_bytes: int, progress: Progress | None) -> None:
        self._what, self._total, self._progress = what, num_bytes, progress
        self._done = 0
        self._show_at_s = time.monotonic() + SHOW_AFTER_S

    def add(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._progress and time.monotonic() > self._show_at_s:
            self._progress(self._what, self._done, self._total)


def _kept(cache_dir: Path, stamp: FileStamp, tensors: Mapping[str, TensorPlace]) -> Hashes | None:
    """What was kept of a file that has this stamp; None where it is not there, or not of these tensors."""
    try:
        values = json.loads(_path(cache_dir, stamp).read_text())
        if values["format"] != FORMAT:
            return None
        hashes = {name: tuple(values["hashes"][name]) for name in tensors}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    fits = all(len(hashes[name]) == len(cut(place.num_bytes)) for name, place in tensors.items())
    return hashes if fits else None


def _path(cache_dir: Path, stamp: FileStamp) -> Path:
    return cache_dir / "parts" / f"{hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:32]}.json"


def _hash_file(path: str, stamp: FileStamp, tensors: Mapping[str, TensorPlace], told: _Told) -> Hashes:
    """Read and hash a file's tensors, several parts at a time."""
    age_s = time.time() - stamp.changed_ns / 1e9
    if 0 <= age_s < CLOCK_TICK_S:
        time.sleep(CLOCK_TICK_S)  # from now on, a change shows in the stamp
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(min(MOST_THREADS, max_threads())) as threads:

        def hash_part(first: int, size: int) -> str:
            return part_hash(os.pread(file.fileno(), size, first))

        parts: dict[str, list[tuple[int, Future[str]]]] = {
            name: [
                (size, threads.submit(hash_part, place.offset + first, size)) for first, size in cut(place.num_bytes)
            ]
            for name, place in tensors.items()
        }
        try:
            hashes = {name: tuple(_result(size, part, told) for size, part in cuts) for name, cuts in parts.items()}
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if stamp_of(path) != stamp:
        raise being_changed(path)
    return hashes


def _result(size: int, part: Future[str], told: _Told) -> str:
    found = part.result()
    told.add(size)
    return found
