"""Nodes on several hosts, as far as one process shows it; with real hosts: tests/integration/test_hosts_run.py."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import wait_until

from shardnet.launch.launcher.hosts import open_to_hosts
from shardnet.launch.launcher.meeting import meeting_of
from shardnet.launch.launcher.options import read_options
from shardnet.transport.door.door import Door, serve_door
from shardnet.transport.door.membership import Membership


def test_members_of_an_earlier_run_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute after node 0 was killed, those of other hosts were taken for devices that have come."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    meeting = meeting_of(read_options(["--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}", "script.py"], {}))
    with ExitStack() as ends:
        struck = threading.Event()
        with serve_door(folder=tmp_path / "shardnet" / f"run-none-{port}") as door:
            join(door, struck, ends)
            assert door.members == ("phone",)
        with open_to_hosts(meeting) as door:
            assert door.members == ()
            wait_until(struck.is_set)
            join(door, struck, ends)
            assert door.members == ("phone",)


def join(door: Door, struck: threading.Event, ends: ExitStack) -> None:
    member = Membership(door.endpoint, timeout_s=20, look_again_s=60)
    ends.callback(member.close)
    member.enter()
    member.enlist("phone", "uv://127.0.0.1:1", lambda news: None, struck.set, lambda event: None)
