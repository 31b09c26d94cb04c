"""What the hub's cache on this machine has of a model, which transformers and other programs share. Asks no network.

Its layout is huggingface_hub's: `snapshots/COMMIT/FILE` links to `blobs/OID`, and `refs/REVISION` names a commit.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shardnet.errors import DamagedCheckpoint, UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.loader.checkpoint import MOST_HEADER_BYTES
from shardnet.loader.hub.choosing import (
    CONFIG,
    INDEX,
    TOKENIZERS,
    beside_weights,
    gguf_of,
    weights_of,
)
from shardnet.loader.hub.listing import COMMIT, Listing, kept
from shardnet.loader.hub.names import HubName
from shardnet.loader.whole_files import write_whole

NEWEST = "main"
MOST_REF_BYTES = 100


@dataclass(frozen=True)
class Repository:
    """One repository, as this machine has it."""

    name: HubName
    lists: Path
    """Where its listings are kept."""

    @classmethod
    def of(cls, name: HubName, cache_dir: Path) -> Repository:
        """Args: `cache_dir`, shardnet's own."""
        return cls(name, cache_dir / "hub" / name.repo.replace("/", "--"))

    @property
    def folder(self) -> Path:
        """In the hub's cache."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=self.name.repo, repo_type="model")

    def blob(self, oid: str) -> Path:
        return self.folder / "blobs" / oid

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def commit(self) -> str | None:
        """That of the revision that is asked for, as far as it was ever asked for here."""
        revision = self.name.revision or NEWEST
        if COMMIT.fullmatch(revision):
            return revision
        with suppress(OSError, UnicodeDecodeError):
            with open(self.folder / "refs" / revision, encoding="ascii") as file:
                found = file.read(MOST_REF_BYTES).strip()
            return found if COMMIT.fullmatch(found) else None
        return None

    def point(self, commit: str) -> None:
        """Say that the revision is this commit, to all that share the cache."""
        revision = self.name.revision or NEWEST
        path = self.folder / "refs" / revision
        if not COMMIT.fullmatch(revision) and self.commit() != commit:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, commit.encode())

    def has(self, listing: Listing, file: str) -> bool:
        """Whether a file is there, whole."""
        try:
            return os.stat(self.snapshot(listing.commit) / file).st_size == listing.files[file].num_bytes
        except OSError:
            return False

    def found(self) -> Path | None:
        """The model, where all of it is here; None where some of it is not, or nobody can say."""
        commit = self.commit()
        listing = None if commit is None else kept(self.lists, commit)
        if listing is None:
            return None
        try:
            wanted = self.wanted(listing)
        except UsageError:
            return None
        return self.place(listing, wanted) if all(self.has(listing, file) for file in wanted) else None

    def wanted(self, listing: Listing) -> list[str]:
        """The files that make the model, what is small first. The index must be here, where there is one.

        Raises:
            UsageError: see `choosing`; DamagedCheckpoint for an index that is none.
        """
        gguf = gguf_of(listing.files, self.name)
        if gguf is not None:
            return [gguf]
        listed = listed_in(self.snapshot(listing.commit) / INDEX) if INDEX in listing.files else None
        return [*beside_weights(listing.files), *weights_of(listing.files, listed, self.name)]

    def place(self, listing: Listing, wanted: list[str]) -> Path:
        """The folder, or the .gguf file."""
        folder = self.snapshot(listing.commit)
        return folder / wanted[0] if wanted[0].endswith(".gguf") else folder

    def looks_whole(self) -> Path | None:
        """The same where nobody can say what the repository has: by what must be there.

        Another program has fetched it, and the hub cannot be asked.
        """
        commit = self.commit()
        if commit is None:
            return None
        folder = self.snapshot(commit)
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        with suppress(UsageError):
            gguf = gguf_of(there, self.name)
            if gguf is not None:
                return folder / gguf
            listed = listed_in(folder / INDEX) if INDEX in there else None
            weights_of(there, listed, self.name)
            is_whole = CONFIG in there and any(tokenizer in there for tokenizer in TOKENIZERS)
            return folder if is_whole else None
        return None


def listed_in(index: Path) -> set[str]:
    """The files that an index of weights names.

    Raises:
        ModelNotFound, DamagedCheckpoint: it is not there, or is none.
    """
    content = read_json(index, MOST_HEADER_BYTES, "the index", DamagedCheckpoint)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedCheckpoint(f"{index} is no list of weight files: it has no weight_map. Remove it, and try again.")
    return {str(name) for name in weight_map.values()}
