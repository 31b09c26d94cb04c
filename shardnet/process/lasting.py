"""Where a cluster is that outlives commands: a state folder, in which its door is, and how commands name it."""

from __future__ import annotations

import fcntl
import os
import shlex
from pathlib import Path

from shardnet.errors import JoinFailed, UsageError
from shardnet.foreign.plain_files import is_folder, user_path
from shardnet.foreign.quoting import shortened
from shardnet.process.state_folder import LOCK

DOOR, STATUS, GATE, TRUST = "door", "status", "gate", "trust"
"""The sockets in a state folder. The last one is in a folder of that name there, with all that its gate holds."""
MARK = "cluster"
"""An empty file that tells a state folder from others that a door may be in."""
UNIX = "unix:"
"""With which the endpoint of a door begins that is a socket on this machine."""


def default_folder() -> Path:
    """The state folder of commands that name none.

    Raises:
        UsageError: the user has no home folder.
    """
    folder = os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    if not os.path.isabs(folder):
        raise UsageError(f"There is no home folder for {folder}. Set HOME, or name a state folder.")
    return Path(folder, "shardnet", "default")


def folder_of(address: str | Path | None) -> Path | None:
    """The state folder that an address means; None where it means no cluster that outlives commands.

    Args:
        address: the folder itself, or "unix:PATH" of the door in it; None for the default one.
    """
    if address is None:
        return default_folder()
    if not address or not isinstance(address, (str, Path)):
        return None
    address = str(address)
    if address.startswith(UNIX):
        folder = user_path(address.removeprefix(UNIX)).parent
        return folder if (folder / MARK).is_file() else None
    return user_path(address) if os.sep in address or is_folder(user_path(address)) else None


def as_option(folder: Path, option: str = "--cluster") -> str:
    """What a command needs to mean a folder, with a space before it; empty for the default one.

    Args:
        option: `shardnet up` has another one than the others.
    """
    try:
        is_default = folder.absolute() == default_folder()
    except UsageError:  # there is none
        is_default = False
    return "" if is_default else f" {option} {shlex.quote(str(folder))}"


def how_to_start(folder: Path) -> str:
    """The command that starts a cluster in a folder."""
    return f"shardnet up --model MODEL{as_option(folder, '--state')}"


def endpoint_in(folder: Path) -> str:
    """Of the door in a state folder."""
    return f"{UNIX}{folder.absolute() / DOOR}"


def mark(folder: Path) -> None:
    """Say that this is the state folder of a cluster.

    Raises:
        OSError: it cannot be written.
    """
    (folder / MARK).touch()


def is_running(folder: Path) -> bool:
    """Whether a cluster runs in a state folder.

    Raises:
        UsageError: the folder is not open to this user.
    """
    try:
        with open(folder / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except PermissionError as cause:
        raise UsageError(f"The folder {shortened(str(folder))} is not open to this user. Name one of yours.") from cause
    except OSError:  # there is no such file or folder
        pass
    return False


def require_running(folder: Path) -> None:
    """See that a cluster runs in a state folder.

    Raises:
        JoinFailed: none does.
        UsageError: the folder is not open to this user.
    """
    if not is_running(folder):
        raise JoinFailed(f"No cluster runs in {shortened(str(folder))}. Start one: {how_to_start(folder)}")
