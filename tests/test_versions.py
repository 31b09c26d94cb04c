"""Which versions go together: the table, and the sentences where they do not."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shardnet import __version__
from shardnet.errors import UsageError
from shardnet.process import state_format
from shardnet.process.state_folder import StateFolder
from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.door.door import MOST_VERSIONS
from shardnet.transport.door.greeting import MARK_BYTES, greeting_of
from shardnet.transport.door.membership import Membership
from shardnet.versions import (
    OURS,
    OWN,
    TABLE,
    TORCH_WANTED,
    VERSION_BYTES,
    Version,
    packed,
    series_of,
    torch_untried,
    unpacked,
    why_not_read,
    why_not_together,
)

ROOT = Path(__file__).parent.parent
OLDER = Version(OURS.wire + 1, "0.9.3")
JOIN = """
import sys
from shardnet import versions
versions.OURS = versions.OURS._replace(wire=versions.OURS.wire + int(sys.argv[2]))
versions.OWN = versions.Version(versions.OURS.wire, sys.argv[3])
from shardnet.errors import ShardnetError
from shardnet.transport.door.membership import Membership
try:
    with_it = Membership(sys.argv[1], timeout_s=20)
    with_it.enter()
    with_it.close()
except ShardnetError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""Joins a door as another release of another wire format, or of the same one."""


def joined_as(endpoint: str, further: int, release: str) -> str:
    """What such a release says; empty where it could join."""
    command = [sys.executable, "-c", JOIN, endpoint, str(further), release]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


def test_every_series_up_to_this_one_has_a_row() -> None:
    assert list(TABLE)[-1] == series_of(__version__)
    assert TABLE[series_of(__version__)] == OURS and (OURS.wire, __version__) == OWN


def test_the_range_of_torch_is_told_once() -> None:
    assert f'"{TORCH_WANTED}"' in (ROOT / "setup.py").read_text()
    least, most = re.findall(r"\d+\.\d+", TORCH_WANTED)
    assert torch_untried(f"{least}.0") is None and torch_untried("2.13.0+cpu") is None
    for other in ("2.7.1", f"{most}.0", "3.0.0", "1.13.1", "main"):
        told = torch_untried(other)
        assert told is not None and f"here is {other}" in told and f"pip install '{TORCH_WANTED}'" in told


@pytest.mark.parametrize("version", [OWN, OLDER, Version(65535, "1.22.333rc4+cpu")])
def test_a_version_comes_out_as_it_went_in(version: Version) -> None:
    assert len(packed(version)) == VERSION_BYTES and unpacked(packed(version)) == version


@pytest.mark.parametrize("release", [b"\x1b[2J", b"nobody's", b"\xff" * 16, b"1;rm -rf /", bytes(16)])
def test_what_a_stranger_calls_its_version_is_not_shown(release: bytes) -> None:
    said = unpacked(b"\0\7" + release.ljust(16, b"\0"))
    assert said == (7, "") and said.name == "an unknown version of shardnet"


def test_the_sentence_names_both_and_what_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "0.9", OURS._replace(wire=OLDER.wire))
    monkeypatch.setitem(TABLE, "0.2", OURS)
    assert why_not_together(OLDER, "The cluster") == (
        f"The cluster runs shardnet 0.9.3 (wire format {OLDER.wire}, which goes with 0.9.*); this is {OWN.name} (wire "
        f"format {OURS.wire}), which goes with 0.1.* and 0.2.*. Install the same version on both."
    )
    between = why_not_together(OWN, "The cluster")
    assert "another state of wire format" in between and "Install the same wheel on both." in between


def test_a_device_of_another_version_is_refused_by_name_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    with serve_door() as door:
        for _ in range(2):
            said = joined_as(door.endpoint, 1, "0.9.3")
            assert said.startswith(f"OtherVersion: The cluster at {door.endpoint} runs {OWN.name} (wire format ")
            assert "; this is shardnet 0.9.3 (wire format" in said
        assert joined_as(door.endpoint, 0, "0.1.7") == "", "another release of the same formats"
        Membership(door.endpoint, timeout_s=10).close()
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith("A device that wants to join runs shardnet 0.9.3 (wire format 2); this is shardnet 0.1.0")


def test_strangers_with_many_versions_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with serve_door() as door:
        for number in range(MOST_VERSIONS + 5):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(door.endpoint.removeprefix("unix:"))
                stranger.sendall(greeting_of(Version(OLDER.wire, f"9.{number}"), bytes(MARK_BYTES)))
                while stranger.recv(2**10):
                    pass
    assert len(caplog.records) == MOST_VERSIONS


def test_a_torch_that_was_not_tried_is_told_at_a_join(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    with serve_door() as door, RpcTransport.join(door.endpoint, "device"):
        [told] = [record.getMessage() for record in caplog.records]
    assert told == torch_untried("2.99.0")


def test_a_gate_speaks_of_versions_without_torch() -> None:
    """And is small: at rest it has nothing that takes megabytes and is needed once in weeks, or by somebody else."""
    unwanted = {"torch", "numpy", "spake2", "tempfile", "shutil", "typer", "rich", "zeroconf", "unittest", "http"}
    for kind, more in (("as_hub", set[str]()), ("as_outpost", {"cryptography", "email"})):
        program = (
            f"import shardnet.gate.process, shardnet.gate.{kind}, sys; print(*{unwanted | more} & {{*sys.modules}})"
        )
        found = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.PIPE)
        assert found.stdout.split() == [], kind


def test_a_state_folder_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    held = StateFolder(tmp_path / "state")
    held.write("roster.json", b"{}")
    held.write(state_format.NAME, b'{"state": 99, "shardnet": "0.9.3"}')
    held.close()
    with pytest.raises(
        UsageError, match=r"state was written by shardnet 0\.9\.3 in state format 99, and this is shardne"
    ):
        StateFolder(held.path)
    assert "Use it with shardnet 0.9.3, or" in str(why_not_read(99, "0.9.3", "It"))


def test_a_state_folder_of_another_release_of_the_same_format_is_read(tmp_path: Path) -> None:
    for written in (None, b'{"state": %d, "shardnet": "0.1.7"}' % OURS.state):
        held = StateFolder(tmp_path / "state")
        if written is not None:
            held.write(state_format.NAME, written)
            assert not state_format.require_readable(held.path)
        held.close()
    StateFolder(tmp_path / "state").close()
    assert state_format.require_readable(tmp_path / "state")


@pytest.mark.parametrize("note", [b"", b"[]", b'{"state": "1"}', b'{"state": 1, "shardnet": "\\u001b"}'])
def test_a_damaged_note_is_told(tmp_path: Path, note: bytes) -> None:
    (tmp_path / state_format.NAME).write_bytes(note)
    with pytest.raises(UsageError, match=state_format.NAME):
        state_format.require_readable(tmp_path)
