"""Answers of a given form on the command line: what is wrong ends before devices are started."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tiny_text_model import save_text_model

from shardnet.launch import cli

pytest.importorskip("llguidance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("constrained") / "model")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["shardnet", *arguments])
    monkeypatch.delenv("SHARDNET_ENDPOINT", raising=False)
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--regex", "(a"), "grammar is not one that an answer can follow: "),
        (("--json-schema", "/nowhere"), "The schema file '/nowhere' cannot be read: "),
        (("--json-schema", "{"), "--json-schema must be a JSON schema, but this is none: "),
        (("--lark", "/nowhere"), "The grammar file '/nowhere' cannot be read: "),
        (("--choice", ""), "--choice must be text and not empty, but is ''."),
        (("--regex", "a", "--choice", "b"), "--choice cannot be combined with regex: an answer follows one grammar."),
        (("--regex", "a", "--ignore-eos"), "--ignore-eos cannot be kept where the grammar of an answer says when it"),
    ],
)
def test_what_cannot_be_followed_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    options: tuple[str, ...],
    sentence: str,
) -> None:
    assert run(monkeypatch, "generate", "-m", str(folder), "-p", "hi", *options) == 2
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert printed.out == "" and "starting devices" not in printed.err
    assert last.removeprefix("shardnet: ").startswith(sentence.removeprefix("--") if sentence[0] != "-" else sentence)


def test_the_answer_has_the_form(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    lark = tmp_path / "word.lark"
    lark.write_text('start: "<" /[a-z]{2,5}/ ">"\n')
    asked = (
        "generate",
        "-m",
        str(folder),
        "-p",
        "hi",
        "--devices",
        "2",
        "--split",
        "3,3",
        "--lark",
        str(lark),
        "--json",
    )
    assert run(monkeypatch, *asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert re.fullmatch("<[a-z]{2,5}>", found["text"])
