"""Which addresses mean a cluster that outlives commands, and whether it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardnet.errors import JoinFailed, UsageError
from shardnet.process.lasting import (
    MARK,
    as_option,
    default_folder,
    endpoint_in,
    folder_of,
    how_to_start,
    is_running,
    mark,
    require_running,
)
from shardnet.process.state_folder import StateFolder


def test_a_folder_is_an_address_and_so_is_the_door_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_of(str(tmp_path)) == tmp_path
    assert folder_of(tmp_path) == tmp_path
    assert folder_of(str(tmp_path / "none")) == tmp_path / "none", "that it is not there is told when it is used"
    assert folder_of(endpoint_in(tmp_path)) is None, "a door of a script, say"
    mark(tmp_path)
    assert folder_of(endpoint_in(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("~/state") == tmp_path / "state"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert folder_of("here") == Path("here")


def test_a_command_in_a_sentence_means_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert as_option(default_folder()) == ""
    assert as_option(tmp_path / "my state") == f" --cluster '{tmp_path}/my state'"
    assert how_to_start(default_folder()) == "shardnet up --model MODEL"
    assert how_to_start(tmp_path / "my") == f"shardnet up --model MODEL --state {tmp_path}/my"
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "nowhere")
    with pytest.raises(JoinFailed, match=rf"Start one: shardnet up --model MODEL --state {tmp_path}/none$"):
        require_running(tmp_path / "none")


@pytest.mark.parametrize("address", ["", "127.0.0.1:29500", "[::1]:29500", "nowhere", "unix:door", 29500])
def test_other_addresses_are_not(address: str) -> None:
    assert folder_of(address) is None


def test_the_default_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of(None) == default_folder() == tmp_path / ".local/state/shardnet/default"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert default_folder() == tmp_path / "state/shardnet/default"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    with pytest.raises(UsageError, match="no home folder"):
        default_folder()


def test_a_cluster_runs_while_a_process_holds_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with pytest.raises(JoinFailed, match=r"No cluster runs in .*shardnet up"):
        require_running(folder)
    state = StateFolder(folder)
    mark(folder)
    assert is_running(folder) and (folder / MARK).exists()
    state.close()
    assert not is_running(folder)
