"""`shardnet task` over local devices and over a cluster that runs: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until
from telling_command import TellingCommand
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

COMMAND = (*WARM_PYTHON, "-m", "shardnet.launch.cli")
LABELS = ("calm", "angry", "so-so")
TEXTS = ["Hello", "The ferry leaves at seven.", "A clock without hands."]
Done = subprocess.CompletedProcess[str]


def run(*arguments: object, text: str = "") -> Done:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "task", *map(str, arguments)]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=300, check=False, env=environment
    )


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory, warm_python: None) -> Path:
    return save_text_model(tmp_path_factory.mktemp("moods"), labels=LABELS)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, warm_python: None) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--listen", "none", "--state", folder / "state", "--threads", 1, "--name", "one", "--json")
    model = ("--model", save_text_model(folder / "model"), "--dtype", "float32")
    up = TellingCommand([*COMMAND, "up", *options, *model])
    wait_until(lambda: up.told("loaded") is not None or up.process.poll() is not None)
    assert up.told("loaded"), up.events
    yield folder / "state"
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 0


def test_rows_of_a_file_are_classified_and_a_run_goes_on(moods: Path, tmp_path: Path) -> None:
    rows = tmp_path / "in.csv"
    rows.write_text("id,body\n" + "".join(f"{number},{text}\n" for number, text in enumerate(TEXTS)))
    asked = ("text-classification", "--model", moods, "--dtype", "float32", "--devices", 2, "--input", rows)
    out = tmp_path / "out.jsonl"
    done = run(*asked, "--column", "body", "--output", out)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = out.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [row["body"] for row in found] == TEXTS
    assert all(row["label"] in LABELS and 1 / 3 < row["score"] < 1 for row in found)
    out.write_text(f"{lines[0]}\n{lines[1][:9]}")
    again = run(*asked, "--column", "body", "--output", out)
    assert again.returncode == 0, again.stderr
    assert "has 1 result already; 2 are left" in again.stderr
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == [row["label"] for row in found]


def test_a_cluster_that_runs_is_asked_and_says_the_same(state: Path) -> None:
    asked = ("zero-shot-classification", "--candidate-labels", "calm,angry", "--cluster", state)
    done = run(*asked, "--text", TEXTS[1], "--json")
    assert done.returncode == 0, done.stderr
    [result] = json.loads(done.stdout)["results"]
    assert result["sequence"] == TEXTS[1]
    assert sum(result["scores"]) == pytest.approx(1)
    piped = run(*asked, "--input", "-", "--output", "-", text=json.dumps({"text": TEXTS[1]}) + "\n")
    assert piped.returncode == 0, piped.stderr
    assert json.loads(piped.stdout)["scores"] == pytest.approx(result["scores"], abs=1e-5)


def test_a_model_that_is_none_for_the_task_is_refused_in_one_sentence(state: Path, moods: Path) -> None:
    for asked in (("summarization", "--model", moods), ("text-classification", "--cluster", state)):
        done = run(*asked, "--text", "x")
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
