"""Files and folders that are for this user alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from shardnet.errors import UsageError


def require_own(path: Path, status: os.stat_result, is_kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """See that a file or folder is this user's, and nobody else's.

    Raises:
        UsageError: it is not.
    """
    if not is_kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UsageError(
            f"{path} must belong to this user and be closed to all others, or they could enter this user's clusters. "
            f"Look at what is there; chmod go= {path} closes it."
        )
