"""The device of a coordinator's machine: found again by the next coordinator, and ended by one that ends in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import is_over, wait_until

from shardnet.coordinator import own_device
from shardnet.coordinator.own_device import NOTE, OwnDevice, Wanted, start_or_find
from shardnet.errors import UsageError
from shardnet.process.identity import number_of
from shardnet.process.state_folder import StateFolder

WANTED = Wanted("one", 1)
OTHERS = [Wanted("two", 1), Wanted("one", 2), Wanted("one", 1, 2**30), Wanted("one", 1, release="0.0.9")]
QUIET = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); open({ready!r}, 'w').close(); time.sleep(60)"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    """What the devices of these tests do but wait does not matter here."""
    monkeypatch.setattr(own_device, "DEVICE_COMMAND", (sys.executable, "-S", "-c", QUIET))
    monkeypatch.setattr("shardnet.process.serving_process.GOODBYE_S", 0.5)
    state = StateFolder(tmp_path / "state")
    yield state
    state.close()


def pid_of(device: OwnDevice) -> int:
    pid = number_of(device.process)
    assert pid is not None
    return pid


def found(state: StateFolder, wanted: Wanted = WANTED) -> OwnDevice:
    return start_or_find(state, "unix:/nowhere", wanted)


def test_the_one_that_is_there_is_found(state: StateFolder) -> None:
    first = found(state)
    again = found(state)
    assert pid_of(again) == pid_of(first) and not again.has_ended
    again.close()
    assert first.has_ended and again.has_ended
    again.close()
    assert "killed by SIGTERM" in first.how_it_ended("one")


def test_one_that_was_killed_is_not_found(state: StateFolder) -> None:
    first = found(state)
    first._signal(signal.SIGKILL)
    wait_until(lambda: first.has_ended)
    assert first.how_it_ended("one") == "its process was killed by SIGKILL"
    with found(state) as again:
        assert pid_of(again) != pid_of(first)


@pytest.mark.parametrize("wanted", OTHERS)
def test_one_that_is_otherwise_is_ended_first(state: StateFolder, wanted: Wanted) -> None:
    first = found(state)
    with found(state, wanted) as other:
        assert is_over(pid_of(first)) and not other.has_ended
        assert found(state, wanted).process == other.process


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"name": 1}', b'{"name":"one","threads":1,"process":"? ? 1 1"}'])
def test_a_note_that_says_nothing_is_passed_over(state: StateFolder, note: bytes) -> None:
    state.write(NOTE, note)
    with found(state) as device:
        assert not device.has_ended


def test_a_number_that_another_process_has_by_now_is_left_alone(state: StateFolder) -> None:
    first = found(state)
    boot, namespace, pid, begun = first.process.split()
    before = OwnDevice("one", state.path / "log", f"{boot} {namespace} {pid} {int(begun) - 1}", None)
    assert before.has_ended
    before.close()
    assert not first.has_ended
    first.close()


def test_one_that_does_not_listen_is_killed(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = state.path / "ready"
    monkeypatch.setattr(own_device, "DEVICE_COMMAND", (sys.executable, "-S", "-c", DEAF.format(ready=str(ready))))
    device = found(state)
    wait_until(ready.exists)
    device.close()
    assert device.has_ended


def test_what_it_said_last_is_told(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_device, "DEVICE_COMMAND", (sys.executable, "-S", "-c", "raise SystemExit('shardnet: no.')"))
    device = found(state)
    wait_until(lambda: device.has_ended)
    assert device.how_it_ended("one") == "its process ended with exit code 1 (no.)"
    assert "or its connection broke" in device.how_it_ended("two")
    monkeypatch.setattr(own_device, "DEVICE_COMMAND", (sys.executable, "-S", "-c", "raise SystemExit(2)"))
    other = found(state)
    wait_until(lambda: other.has_ended)
    assert other.how_it_ended("one") == "its process ended with exit code 2"
    assert "shardnet: no." in other.log.read_text()


def test_a_note_that_cannot_be_written_is_one_sentence(state: StateFolder) -> None:
    """Once, on a full disk, it was the output of which the sentence spoke."""
    state.close()
    with pytest.raises(UsageError, match=r"state cannot be written: .*\. Make room there\."):
        found(state)


def test_one_that_cannot_be_started_is_one_sentence(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_device, "DEVICE_COMMAND", ("/nowhere/python",))
    with pytest.raises(UsageError, match="The device of this machine cannot be started"):
        found(state)
