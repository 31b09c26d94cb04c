"""Lines that are kept from one chat to the next, and chats that were saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardnet.errors import BadRequest
from shardnet.launch.cluster import chat_lines
from shardnet.launch.cluster.chat_history import History, loaded
from shardnet.launch.cluster.chat_lines import Lines


def type_all(monkeypatch: pytest.MonkeyPatch, path: Path, *typed: str) -> None:
    waiting = iter(typed)
    monkeypatch.setattr("builtins.input", lambda shown: next(waiting))
    with Lines(path) as lines:
        for _ in typed:
            lines.read("> ")


def test_they_are_kept_for_this_user_alone_and_the_last_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_lines, "MOST_KEPT", 3)
    path = tmp_path / "new" / "lines"
    type_all(monkeypatch, path, "one", " ", "two\nlines")
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    type_all(monkeypatch, path, "three", "vier \u00e9")
    assert [json.loads(line) for line in path.read_text().splitlines()] == ["two\nlines", "three", "vier \u00e9"]
    assert [each.name for each in path.parent.iterdir()] == ["lines"]


@pytest.mark.parametrize("content", ["no json\n", "{}\n", "\x00"])
def test_a_file_that_is_something_else_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = tmp_path / "lines"
    path.write_text(content)
    type_all(monkeypatch, path, "one")
    assert path.read_text() == '"one"\n'


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    type_all(monkeypatch, tmp_path / "file" / "lines", "one")


def test_what_was_saved_is_loaded() -> None:
    history = History("Be brief.", [("Hello", "Yes?"), ("Go on", "No.")])
    for each in (history, History("", []), History("", history.turns)):
        assert loaded(json.dumps({"messages": each.messages()}), "f") == each


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x"}],
        [{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}],
        [{"role": "user", "content": 5}, {"role": "assistant", "content": "x"}],
        [5],
        None,
    ],
)
def test_what_is_no_chat_is_refused(messages: object) -> None:
    with pytest.raises(BadRequest, match="f is no chat that /save has written"):
        loaded(json.dumps({"messages": messages}), "f")
