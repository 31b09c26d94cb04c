"""Files of this user's that others must not have had in their hands: keys, and what says whom to trust."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from shardnet.errors import UsageError
from shardnet.process.ownership import require_own
from shardnet.process.state_folder import StateFolder


def read_own(path: Path, most_bytes: int) -> bytes | None:
    """The content of a file; None where there is none.

    Raises:
        UsageError: others could have read or changed it, it is too large, or it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as opened:
            require_own(path, os.fstat(file))
            content = opened.read(most_bytes + 1)
    except FileNotFoundError:
        return None
    except OSError as cause:
        reason = "it is a link" if cause.errno == errno.ELOOP else cause.strerror
        raise UsageError(f"{path} cannot be read: {reason}. Look at what is there.") from cause
    if len(content) > most_bytes:
        raise UsageError(
            f"{path} has more than the {most_bytes} bytes that such a file may have. It is not one of ours."
        )
    return content


def keep(state: StateFolder, name: str, content: bytes) -> None:
    """Write a file that nothing goes on without.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        state.write(name, content)
    except OSError as cause:
        raise UsageError(
            f"{state.path / name} cannot be written: {cause.strerror}. Make room on the disk, or name another folder."
        ) from cause


def damaged(path: Path) -> UsageError:
    """What is raised for a file that is not what was written."""
    return UsageError(
        f"{path} is damaged, or of another version of shardnet. Put a copy of it back, or remove the folder "
        f"{path.parent} to begin anew: invitations and certificates that hang on it count no more."
    )
