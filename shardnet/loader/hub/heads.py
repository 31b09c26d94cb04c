"""The beginning of a .gguf file on the hub, which says what the model is: weights are not fetched.

It is kept as a file of the whole one's size with a hole where the weights were, so that all who read headers read it.
"""

from __future__ import annotations

import os
from pathlib import Path

from shardnet.errors import DamagedCheckpoint, ModelNotFetched
from shardnet.loader.gguf.header import parse_header
from shardnet.loader.hub.cached import Repository
from shardnet.loader.hub.listing import Listing
from shardnet.loader.hub.trying import trying

PIECE_BYTES = 1 << 20
RANGES = 206
"""The status of an answer that is a piece."""
FORMAT = 1


def head_of(repository: Repository, listing: Listing, file: str) -> Path:
    """The file's beginning, in a file of the same name and size.

    Raises:
        ModelNotFound, ModelNotFetched: as `fetching.fetch`.
        DamagedCheckpoint, UnsupportedModel: as `gguf.header.read_header`.
    """
    entry = listing.files[file]
    path = repository.lists / f"heads-{FORMAT}" / entry.oid / os.path.basename(file)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb+", buffering=0) as near:
            near.truncate(entry.num_bytes)
            parse_header(
                path, _Fetched(repository, listing.commit, file, entry.num_bytes, near.fileno()), entry.num_bytes
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


class _Fetched:
    """A file that is on the hub, of which pieces come when they are read, and are put into a file here."""

    def __init__(self, repository: Repository, commit: str, file: str, num_bytes: int, near: int) -> None:
        from huggingface_hub import hf_hub_url

        self._repository, self._near, self._num_bytes = repository, near, num_bytes
        self._url = hf_hub_url(repository.name.repo, file, revision=commit)
        self._file = file
        self._there: set[int] = set()
        """The pieces that have come."""
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset if whence == os.SEEK_SET else self._at + offset
        return self._at

    def read(self, num_bytes: int) -> bytes:
        end = min(self._at + num_bytes, self._num_bytes)
        for piece in range(self._at // PIECE_BYTES, -(-end // PIECE_BYTES)):
            if piece not in self._there:
                self._fetch(piece)
        content = os.pread(self._near, max(0, end - self._at), self._at)
        self._at = end
        return content

    def _fetch(self, piece: int) -> None:
        first = piece * PIECE_BYTES
        last = min(first + PIECE_BYTES, self._num_bytes) - 1
        content = trying(self._repository.name, lambda: self._asked(first, last))
        if len(content) != last - first + 1:
            raise DamagedCheckpoint(f"{self._file} on the hub is shorter than the hub says. Ask its authors.")
        os.pwrite(self._near, content, first)
        self._there.add(piece)

    def _asked(self, first: int, last: int) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        asked = {**build_hf_headers(), "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        with get_session().stream("GET", self._url, headers=asked, follow_redirects=True) as response:
            hf_raise_for_status(response)
            if response.status_code != RANGES and last - first + 1 < self._num_bytes:
                raise ModelNotFetched(
                    f"What stands before the hub gives {self._file} only as a whole, and its beginning was asked for. "
                    "Fetch the model first (shardnet generate --model), or ask the hub itself."
                )
            return bytes(response.read())
