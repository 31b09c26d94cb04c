"""Commands that are given a classifier: what writes text refuses it in one sentence, and what plans takes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import write_gguf
from tiny_text_model import save_text_model

from shardnet.launch import cli

SAID = (
    "is a classifier (...ForSequenceClassification): it tells classes of texts apart, and writes none. "
    "Name a model that writes text (...ForCausalLM).\n"
)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("moods"), labels=("calm", "angry", "so-so"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["shardnet", *arguments])
    monkeypatch.delenv("SHARDNET_ENDPOINT", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--model", "{}", "--prompt", "Hello"),
        ("generate", "--model", "some/model", "--prompt", "Hello", "--draft", "{}"),
        ("bench", "--model", "{}"),
        ("quality", "--model", "{}"),
    ],
)
def test_what_writes_text_refuses_a_classifier(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], classifier: Path, command: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *(part.format(classifier) for part in command)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.endswith(f"shardnet: {classifier.name} {SAID}")


def test_what_plans_reckons_with_its_head(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], classifier: Path
) -> None:
    assert run(monkeypatch, "plan", "--model", str(classifier), "--cluster", "home", "--json") == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", ["plan", "simulate"])
def test_no_bits_are_chosen_by_what_it_does_not_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], classifier: Path, command: str
) -> None:
    """Nor is anybody sent to measure it, which is refused."""
    assert run(monkeypatch, command, "--model", str(classifier), "--cluster", "home", "--quality", "1%") == 2
    assert (
        f"quality goes by how likely a text is to a model, and {classifier.name} is a class" in capsys.readouterr().err
    )


def test_a_gguf_file_with_such_a_head_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It was taken for a model that writes, whose head is its embedding."""
    path = tmp_path / "ranks.gguf"
    write_gguf(path, more=lambda writer: writer.add_tensor("cls.output.weight", np.zeros((2, 64), np.float32)))
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))
    assert run(monkeypatch, "generate", "--model", str(path), "--prompt", "Hello") == 2
    assert capsys.readouterr().err.endswith(f"shardnet: ranks {SAID}")
