"""Where converted models and profiles are kept: where a caller says, SHARDNET_CACHE, or a folder in the user's home."""

from __future__ import annotations

import os
from pathlib import Path

from shardnet.errors import UsageError


def cache_folder(asked: str | Path | None = None) -> Path:
    """The folder, which need not exist yet.

    Args:
        asked: by a caller; None leaves it to the user.

    Raises:
        UsageError: the user has no home folder, as in some containers.
    """
    folder = os.path.expanduser(str(asked or os.environ.get("SHARDNET_CACHE") or "~/.cache/shardnet"))
    if folder.startswith("~"):
        raise UsageError(f"There is no home folder for {folder}. Set SHARDNET_CACHE to a folder that can be written.")
    return Path(folder)
