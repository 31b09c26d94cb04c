"""Files that a command will write, looked at before its work is done."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from shardnet.errors import UsageError

PICTURES = (".png", ".svg", ".pdf")


def require_writable(path: Path | None, option: str) -> None:
    """Raise where the file cannot be written; leave it as it is where it can.

    Raises:
        UsageError: names the option by which another file can be chosen.
    """
    if path is None:
        return
    is_new = not path.exists()
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file with {option}.") from error


def require_picture(path: Path | None) -> None:
    """As `require_writable`, for the file of --plot.

    Raises:
        UsageError: also where its name says no known format, or where matplotlib is missing.
    """
    if path is None:
        return
    if path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"--plot draws {', '.join(PICTURES)}, but {path} ends otherwise. Name a file such as plan.png."
        )
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'shardnet[profile]'.")
    require_writable(path, "--plot")
