"""Which process is at the other end of a socket, and whether it is still there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shardnet.process import identity
from shardnet.process.identity import has_ended, process_behind


def test_a_process_is_known_by_its_connection_until_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE) as child:
            connection, _ = listener.accept()
            with connection:
                process = process_behind(connection)
                assert process.split()[2] == str(child.pid)
                assert process_behind(connection) == process
                assert not has_ended(process)
                child.kill()
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                assert has_ended(process), "a corpse that nobody has buried yet"
        assert has_ended(process)


def test_a_number_that_another_process_has_by_now_is_not_enough() -> None:
    boot, namespace, pid, begun = own().split()
    assert not has_ended(own())
    assert has_ended(f"{boot} {namespace} {pid} {int(begun) - 1}")
    assert has_ended(f"another-{boot} {namespace} {pid} {begun}"), "the machine was started again"
    assert not has_ended(f"{boot} pid:[1] 999999999 {begun}"), "a process of another container"


def test_what_is_not_known_has_not_ended() -> None:
    with socket.socket(socket.AF_INET) as other:
        assert process_behind(other) == ""
    for unknown in ("", "?", "a b c d e"):
        assert not has_ended(unknown)


def test_where_the_system_tells_nothing_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    here = own()
    monkeypatch.setattr(identity, "_namespace", lambda: "?")
    assert not has_ended(here)
    with monkeypatch.context() as patch:
        patch.delattr(socket, "SO_PEERCRED")
        assert own() == ""


def own() -> str:
    first, second = socket.socketpair(socket.AF_UNIX)
    with first, second:
        return process_behind(first)
