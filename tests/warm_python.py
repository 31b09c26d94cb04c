"""A Python that has imported torch, transformers and shardnet already: `[*WARM_PYTHON, "-m", MODULE, ...]`.

Those imports take four seconds of a core for every command and for every set of local devices, and the suite starts a
hundred of them. For tests whose subject is not the start itself: what is started here is forked from a server, which
`conftest.py` starts where a test asks for `warm_python`. It has its own arguments, environment, folder, open files,
standard streams and exit code, and gets the signals. Its parent is the server: do not look for it under the test.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardnet.cluster.local_workers import worker_environment

HERE = Path(__file__).parent
ADDRESS = f"shardnet-tests-{os.getpid()}-{os.urandom(8).hex()}"
WARM_PYTHON = (sys.executable, "-I", "-S", str(HERE / "warm_client.py"), ADDRESS)
WARM_NURSERY = (*WARM_PYTHON, "-m", "shardnet.device.nursery")


def warm_program(folder: Path) -> Path:
    """A file in that folder that can be run in place of Python."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(WARM_PYTHON)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program


@contextmanager
def warm_server() -> Iterator[None]:
    """In this block, WARM_PYTHON can be used."""
    with socket.socket(socket.AF_UNIX) as address:
        address.bind("\0" + ADDRESS)
        address.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(HERE / "warm_server.py"), str(address.fileno()), *WARM_PYTHON],
            stdin=subprocess.PIPE,
            pass_fds=[address.fileno()],
            env={**worker_environment(os.environ, 1), "HF_HUB_OFFLINE": "1"},  # which is read by an import
            start_new_session=True,
        )
    try:
        yield
    finally:
        server.communicate()  # closes its standard input, which ends it
