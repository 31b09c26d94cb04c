"""A gate whose process has ended is started again, and where it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from processes import wait_until

from shardnet.coordinator import kept_gate, own_gate
from shardnet.coordinator.kept_gate import KeptGate
from shardnet.coordinator.own_gate import Listening
from shardnet.process.state_folder import StateFolder
from shardnet.source.trust import ask_gate


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path / "state")
    yield folder
    folder.close()


def test_a_gate_that_was_killed_is_there_again_at_the_same_port(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody noticed, and the machine was alone from then on."""
    monkeypatch.setattr(kept_gate, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(kept_gate, "AGAIN_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listening = Listening((f"127.0.0.1:{taken.getsockname()[1]}",), or_next=True)
        with KeptGate(partial(own_gate.start_or_find, state, listening)) as kept:
            first = kept.gate
            assert first.child is not None
            os.kill(first.child.pid, signal.SIGKILL)
            wait_until(lambda: kept.gate is not first)
            assert kept.gate.told == first.told
            assert ask_gate(state.path, "invite")["addresses"] == first.told["addresses"]
    assert kept.gate.has_ended
