"""Forks a process for every client (`warm_client.py`), having imported what takes time; see `warm_python.py`.

    python warm_server.py FD PYTHON ...

FD is the listening socket that it inherits; PYTHON is the command by which a forked process starts devices. It ends,
and kills what it has forked, when its standard input closes.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOADED = (
    "transformers.generation.utils",
    "transformers.modeling_layers",
    "transformers.models.llama.modeling_llama",
    "shardnet.coordinator.coordinator",
    "shardnet.device.worker",
    "shardnet.launch.commands",
    "shardnet.launch.launcher.node",
)
"""Never what is run with -m, which Python would complain about."""
UNBUFFERED = "-u"
"""An option of Python's own, which makes no difference here."""


class Server:
    """Forks a process for every client, and tells the client how it ended. One thread, or it could not fork."""

    def __init__(self, address: socket.socket) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, socket.socket] = {}
        """By the process that was forked for it."""
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def serve(self) -> dict[str, Any] | None:
        """Returns in every process that is forked, with what it shall do; and in this one, with None, in the end."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for source in (0, self._address, self._woken):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._address:
                    asked = self._accept()
                    if asked is not None:
                        return asked
                elif key.fileobj is self._woken:
                    self._woken.recv(1024)
                    self._bury()
                elif key.fileobj == 0:
                    return self._end()
                elif key.data in self._clients:  # not buried a moment ago
                    self._forward(key.data)

    def _accept(self) -> dict[str, Any] | None:
        client = self._address.accept()[0]
        if user_of(client) != os.getuid():  # an abstract address has no owner: anybody may connect
            client.close()
            return None
        try:
            asked, files = receive(client)
        except EOFError:  # it was killed
            client.close()
            return None
        pid = os.fork()
        if pid == 0:
            os.setsid()
            client.close()
            self._let_go()
            take(files, asked["files"])
            return asked
        for file in files:
            os.close(file)
        self._clients[pid] = client
        self._selector.register(client, selectors.EVENT_READ, pid)
        return None

    def _let_go(self) -> None:
        """In a forked process: nothing of the server's may close a file when Python tidies up."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for held in (self._address, self._woken, self._waker, *self._clients.values()):
            held.close()

    def _forward(self, pid: int) -> None:
        """A signal for the process group of that process. SIGKILL when the client itself is gone."""
        received = self._clients[pid].recv(1)
        if not received:
            self._selector.unregister(self._clients[pid])
        strike(pid, received[0] if received else signal.SIGKILL)

    def _bury(self) -> None:
        for pid in list(self._clients):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                client = self._clients.pop(pid)
                with suppress(KeyError):
                    self._selector.unregister(client)
                with client, suppress(OSError):
                    client.sendall(str(os.waitstatus_to_exitcode(status)).encode())

    def _end(self) -> None:
        for pid in self._clients:
            strike(pid, signal.SIGKILL)


def user_of(client: socket.socket) -> int:
    """The user whose process is at the other end (Linux)."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return int(user)


def strike(pid: int, number: int) -> None:
    """Signal the process group of a process that is not buried yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it has not come so far as to have one
        os.kill(pid, number)


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for, and its files under numbers of ours."""
    size, files, _, _ = socket.recv_fds(client, 8, 250)
    missing = int.from_bytes(size, "little")
    asked = b""
    while missing or not asked:
        received = client.recv(missing)
        if not received:
            raise EOFError
        asked, missing = asked + received, missing - len(received)
    found: dict[str, Any] = json.loads(asked)
    return found, files


def take(files: list[int], numbers: list[int]) -> None:
    """Let these files have those numbers, and close all others."""
    above = max(*numbers, *map(int, os.listdir("/proc/self/fd"))) + 1
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, above) for file in files]
    os.closerange(0, above)
    for file, number in zip(high, numbers, strict=True):
        os.dup2(file, number)
    os.closerange(above, max(high) + 1)


def become(asked: dict[str, Any]) -> None:
    """Do what `python ARGUMENTS` does."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    tempfile.tempdir = None  # TMPDIR may be another one
    open_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, *arguments = (each for each in asked["arguments"] if each != UNBUFFERED)
    is_file = kind not in ("-c", "-m")
    if not is_file:
        what, *arguments = arguments
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, str(Path(kind).resolve().parent) if is_file else os.getcwd())
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), program.__dict__)  # noqa: S102
    else:
        runpy.run_path(kind, run_name="__main__")


def exit_code_of(asked: dict[str, Any]) -> int:
    """Do it, and end as Python does, but for what it tidies up in memory."""
    code: Any = 0
    try:
        become(asked)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        if code is not None:
            print(code, file=sys.stderr)
        code = 0 if code is None else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    return code & 0xFF


def open_streams() -> None:
    """As Python opens them: None where a stream is closed."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        with suppress(OSError):
            stream = open(  # noqa: SIM115
                number,
                "w" if number else "r",
                buffering=1 if number == 2 else -1,
                encoding=encoding,
                errors="backslashreplace" if number == 2 else errors or "strict",
                closefd=False,
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    address, *python = sys.argv[1:]
    for module in PRELOADED:
        importlib.import_module(module)
    local_workers: Any = importlib.import_module("shardnet.cluster.local_workers")
    own_device: Any = importlib.import_module("shardnet.coordinator.own_device")
    local_workers.NURSERY_COMMAND = (*python, *local_workers.NURSERY_COMMAND[1:])
    own_device.DEVICE_COMMAND = (*python, *own_device.DEVICE_COMMAND[1:])
    gc.freeze()  # nobody looks through it again, which would copy it
    asked = Server(socket.socket(fileno=int(address))).serve()
    os._exit(0 if asked is None else exit_code_of(asked))  # Python would take seconds to tidy up torch


if __name__ == "__main__":
    main()
