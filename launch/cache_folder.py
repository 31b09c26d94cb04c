"""Where converted models and profiles are kept: SHARDNET_CACHE, or a folder in the user's home."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder, which need not exist yet."""
    return Path(os.environ.get("SHARDNET_CACHE") or "~/.cache/shardnet").expanduser()
