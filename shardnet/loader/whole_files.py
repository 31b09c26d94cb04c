"""Files that readers see whole or not at all, whoever else writes them at the same time."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PART = ".part"
LEFTOVER_S = 3600.0


def write_json(path: Path, values: Any) -> None:
    """Write a file, make its folder where there is none, and remove what killed processes have left there.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    write_whole(path, json.dumps(values).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in a folder that is there, however many others are in it.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=PART, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.replace(file.name, path)
        except BaseException:  # a full disk, Ctrl-C: nobody would ever remove the half
            with suppress(FileNotFoundError):  # it has its name already
                os.unlink(file.name)
            raise


def remove_leftovers(folder: Path) -> None:
    """The halves that killed processes have left: nobody writes for an hour. Looks at every file of the folder."""
    for part in folder.glob(f"*{PART}"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > LEFTOVER_S:
                part.unlink()
