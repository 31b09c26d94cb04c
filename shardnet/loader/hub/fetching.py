"""One file after the other from the hub into its cache: what was cut goes on, and nothing gets there unchecked.

Of huggingface_hub: connections, tokens and the cache. It begins a file anew in each process, and believes what comes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from shardnet.errors import ModelNotFetched
from shardnet.foreign.quoting import shortened
from shardnet.loader.hub.cached import Repository
from shardnet.loader.hub.listing import HubFile, Listing
from shardnet.loader.hub.refusals import FULL, NOT_WRITABLE, cache_shown, status_of
from shardnet.loader.hub.trying import errors_of_the_hub, trying
from shardnet.progress import Progress

PART = ".shardnet.incomplete"
"""Behind the name of a blob that has not come whole."""
HASHED_BYTES = 1 << 20
SHA256_DIGITS = 64
MOST_FAILURES = 5
"""One after the other, without a byte in between."""
PAUSE_S = 1.0
"""After the first of them; then twice as long each time, half a minute in all."""
PIECE = 206
"""The status of an answer that is a piece."""
TOLD_BYTES = 1 << 20


def fetch(repository: Repository, listing: Listing, files: list[str], progress: Progress) -> None:
    """Have these files in the snapshot of the commit.

    Raises:
        ModelNotFetched: the network, the hub or the disk; what has come is kept.
        ModelNotFound: the hub does not give them to this user.
    """
    missing = [file for file in files if not repository.has(listing, file)]
    total = listing.bytes_of(missing)
    _require_room(repository, listing, missing)
    done = 0
    for file in missing:
        told = _told(progress, f"fetching {repository.name.repo}: {shortened(file, 40)}", done, total)
        _forget_wrong(repository, listing, file)
        trying(repository.name, partial(_place, repository, listing, file, told))
        done += listing.files[file].num_bytes
        told(listing.files[file].num_bytes)


def _told(progress: Progress, what: str, before: int, total: int) -> Callable[[int], None]:
    """Tells how far a file is as how far all are."""
    return lambda done: progress(what, min(before + done, total) if total else 1, total or 1)


def _require_room(repository: Repository, listing: Listing, missing: list[str]) -> None:
    """
    Raises:
        ModelNotFetched: the disk has no room for what is missing.
    """
    needed = listing.bytes_of(missing)
    for oid in {listing.files[file].oid for file in missing}:
        for path in (repository.blob(oid), _part(repository, oid)):
            needed -= path.stat().st_size if path.exists() else 0
    folder = next(each for each in (repository.folder, *repository.folder.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelNotFetched(
            f"{repository.name} needs {needed / 2**30:.2f} GiB more in {cache_shown()}, and {free / 2**30:.2f} are "
            "free. Make room, or set HF_HOME to a folder on a larger disk."
        )


def _forget_wrong(repository: Repository, listing: Listing, file: str) -> None:
    """Remove a file of another size than the hub says, which huggingface_hub would take for the file."""
    for path in (repository.snapshot(listing.commit) / file, repository.blob(listing.files[file].oid)):
        with suppress(OSError):
            if path.stat().st_size == listing.files[file].num_bytes:
                continue
        with suppress(OSError):
            path.unlink()


def _place(repository: Repository, listing: Listing, file: str, told: Callable[[int], None]) -> None:
    """Fetch a file as a blob, unless that is there, and have huggingface_hub link it into the snapshot."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import WeakFileLock

    entry = listing.files[file]
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / repository.folder.name
    locks.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(locks / f"{entry.oid}.lock"):  # as huggingface_hub's own downloads have it
        if not repository.blob(entry.oid).exists():
            _fetch_blob(repository, listing.commit, file, entry, told)
    hf_hub_download(repository.name.repo, file, revision=listing.commit)


def _fetch_blob(repository: Repository, commit: str, file: str, entry: HubFile, told: Callable[[int], None]) -> None:
    from huggingface_hub import hf_hub_url

    part = _part(repository, entry.oid)
    part.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(repository.name.repo, file, revision=commit)
    with open(part, "ab") as content:
        _fetch_bytes(repository, url, content, entry, told)
    came = part.stat().st_size
    if came == entry.num_bytes and _oid_of(part, entry) == entry.oid:
        os.replace(part, repository.blob(entry.oid))
        return
    part.unlink()
    fault = f"{came} bytes came, and the hub says {entry.num_bytes}" if came != entry.num_bytes else "its hash differs"
    raise ModelNotFetched(
        f"{shortened(file)} of {repository.name.repo} did not come as the hub has it ({fault}), and was thrown away. "
        "Try again; if it stays so, something between here and the hub changes what it carries."
    )


def _fetch_bytes(
    repository: Repository, url: str, content: BinaryIO, entry: HubFile, told: Callable[[int], None]
) -> None:
    """Append what is missing, however often the connection breaks while there is some progress."""
    failures = 0
    while (before := content.seek(0, os.SEEK_END)) < entry.num_bytes:
        try:
            _take_up(url, content, before, told)
        except errors_of_the_hub() as cause:
            if status_of(cause) is not None or getattr(cause, "errno", None) in (*FULL, *NOT_WRITABLE):
                raise
            failures = 0 if content.seek(0, os.SEEK_END) > before else failures + 1
            if failures > MOST_FAILURES:
                raise
            time.sleep(PAUSE_S * 2**failures)


def _take_up(url: str, content: BinaryIO, before: int, told: Callable[[int], None]) -> None:
    """Append what comes of a file over one connection, of which `before` bytes are there.

    Not by huggingface_hub's `http_get`, which keeps what came by 10 MiB: a link that breaks sooner brings it nothing.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if before:
        headers["Range"] = f"bytes={before}-"
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout_s) as response:
        hf_raise_for_status(response)
        if response.status_code != PIECE:  # all of it comes, whatever was asked for
            content.truncate(0)
            before = 0
        done = said = before
        for piece in response.iter_raw():
            content.write(piece)
            done += len(piece)
            if done - said >= TOLD_BYTES:
                said = done
                told(done)


def _oid_of(path: Path, entry: HubFile) -> str:
    """What the hub would call the content of a file."""
    if len(entry.oid) == SHA256_DIGITS:
        found = hashlib.sha256()
    else:
        found = hashlib.sha1(f"blob {entry.num_bytes}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(HASHED_BYTES):
            found.update(piece)
    return found.hexdigest()


def _part(repository: Repository, oid: str) -> Path:
    blob = repository.blob(oid)
    return blob.with_name(f"{blob.name}{PART}")
