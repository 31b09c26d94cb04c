"""The server of `shardnet up --serve`: `shardnet serve` in a process of its own, which ends with this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from shardnet.errors import ClusterError
from shardnet.launch.values import GUESSING
from shardnet.session.options import GenerationOptions

END_S = 15.0


def options_of_server(port: int, guessing: GenerationOptions) -> list[str]:
    """What to type after `shardnet serve`. Args: `guessing`, how it has tokens guessed."""
    options = ["--port", str(port)]
    for name in GUESSING:
        if guessing[name] != getattr(GenerationOptions, name):
            options += [f"--{name.replace('_', '-')}", str(guessing[name])]
    return options


class ServingChild:
    """Its words go where ours go. A context manager: leaving it ends the server.

    Args:
        folder: of the cluster.
        options: of `shardnet serve`, as they are typed.
    """

    def __init__(self, folder: Path, options: Sequence[str], *, as_json: bool) -> None:
        read_end, self._write_end = os.pipe()
        command = [sys.executable, "-m", "shardnet", "serve", "--cluster", str(folder), *options]
        command += ["--end-with", str(read_end), *(["--json"] if as_json else [])]
        try:
            # A session of its own: Ctrl-C is for this process, which ends the other one.
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(read_end,), start_new_session=True
            )
        finally:
            os.close(read_end)

    def check(self) -> None:
        """
        Raises:
            ClusterError: it has ended.
        """
        code = self._child.poll()
        if code is not None:
            raise ClusterError(
                f"the server has ended (code {code}): see what it has said. Start it again: shardnet serve"
            )

    def __enter__(self) -> ServingChild:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write_end)
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
