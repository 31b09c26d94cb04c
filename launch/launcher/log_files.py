"""Where the output of a run goes, laid out as torchrun does it.

DIR/ID_xxxxxxxx/attempt_0/0/stdout.log          of local rank 0, where it is redirected
DIR/ID_xxxxxxxx/attempt_0/0/stderr.log
DIR/ID_xxxxxxxx/attempt_0/0/error.json          what the script's `record` has written
DIR/ID_xxxxxxxx/attempt_0/filtered_stdout.log   the lines that were asked for
DIR/ID_xxxxxxxx/devices/device-0.log            all that a device prints
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shardnet.errors import BadRequest
from shardnet.launch.launcher.asked import Logs
from shardnet.process.scratch import ScratchFolder

_SCRATCH = "shardnet-run-"
NOWHERE = Path(os.devnull)


class Files(NamedTuple):
    """Of one process that runs the script."""

    out: Path | None
    """None for the launcher's own stream. So for `err`."""
    err: Path | None
    error: Path
    """What the script says of its end; see torch.distributed.elastic.multiprocessing.errors."""


@contextmanager
def run_folder(logs: Logs, run_id: str) -> Iterator[Path]:
    """A new folder for the logs of this run: one that stays, where --log-dir says where.

    Raises:
        BadRequest: it cannot be made.
    """
    parent = logs.folder or Path(tempfile.gettempdir())
    scratch = None
    try:
        if logs.folder is None:
            scratch = ScratchFolder(_SCRATCH, parent)
            folder = scratch.path
        else:
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{run_id}_", dir=parent))
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        yield folder.absolute()
    finally:
        if scratch is not None:
            scratch.remove()


def files_of_attempt(logs: Logs, folder: Path, num_ranks: int) -> list[Files]:
    """Where each local rank's output goes; makes the folders.

    Raises:
        BadRequest: they cannot be made.
    """
    found = []
    for rank in range(num_ranks):
        own = folder / str(rank)
        try:
            own.mkdir(parents=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        written = logs.redirected[rank] | logs.shown[rank]
        unwritten = None if rank in logs.ranks else NOWHERE
        found.append(
            Files(
                out=own / "stdout.log" if written.out else unwritten,
                err=own / "stderr.log" if written.err else unwritten,
                error=own / "error.json",
            )
        )
    return found


def _unwritable(folder: Path, error: OSError) -> BadRequest:
    return BadRequest(f"Logs cannot be written to {folder}: {error.strerror}. Choose another --log-dir.")
