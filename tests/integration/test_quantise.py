"""`shardnet quantise` over real processes: what it makes loads as any other model, and goes on after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from warm_python import WARM_PYTHON

import shardnet
from shardnet.cluster.quantises import calibration_text

pytestmark = pytest.mark.usefixtures("warm_devices")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    return [*WARM_PYTHON, "-m", "shardnet.launch.cli", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "tiny-sym"
    done = run(
        "quantise", "-m", str(tiny), "-o", str(out), "--weights", "int4-sym", "--split", "2,3,1", "--threads", "1"
    )
    assert done.returncode == 0, done.stderr
    assert f"--model {out}" in done.stdout
    return out


def test_it_is_loaded_as_any_other_with_the_same_answers_over_splits(made: Path) -> None:
    answers = []
    for split in ("6", "3,3"):
        done = run("generate", "-m", str(made), "-p", "Once upon a time", "--split", split, "--threads", "1", "--json")
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert answers[0]["weights"] == "int4-sym"


def test_quality_puts_it_beside_others(tiny: Path, made: Path) -> None:
    arguments = ("--weights", "bfloat16,int4-sym", "--also", str(made), "--tokens", "200", "--split", "3,3", "--json")
    done = run("quality", "-m", str(tiny), *arguments, "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    full, rounded, calibrated = found["rows"]
    assert [row["weights"] for row in found["rows"]] == ["bfloat16", "int4-sym", "tiny-sym"]
    assert calibrated["weight_bytes"] == rounded["weight_bytes"] < full["weight_bytes"]
    assert abs(calibrated["change"]) < 0.2 and found["reference"] == "bfloat16"


def test_a_run_that_was_killed_goes_on(tiny: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (
        "quantise",
        "-m",
        str(tiny),
        "-o",
        str(out),
        "--weights",
        "int4-sym",
        "--devices",
        "1",
        "--threads",
        "1",
    )
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    while not (out / "unit-00001.safetensors").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    if (out / "unfinished.json").exists():  # else it was through already
        refused = run("generate", "-m", str(out), "-p", "a")
        assert refused.returncode == 2 and "no config.json" in refused.stderr
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--weights", "int8"), "--weights must be one of int4, int4-g64, int4-g128"),
        (("--text", "/none/there"), "cannot be read: No such file"),
        (("--text", "/dev/null"), "is empty"),
        (("--cluster", "none"), 'An endpoint is "host:port"'),
        (("--devices", "9"), "6 units"),
        (("--out", "/proc/none"), "Cannot write /proc/none"),
    ],
)
def test_what_is_wrong_is_one_sentence(tiny: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    out = () if "--out" in arguments else ("--out", str(tmp_path / "out"))
    done = run("quantise", "-m", str(tiny), *out, *arguments)
    assert done.returncode != 0 and sentence in done.stderr
    said = [line for line in done.stderr.splitlines() if line != "starting devices: done"]
    assert (done.stdout, len(said)) == ("", 1)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_refused_before_devices_start(tiny: Path) -> None:
    done = run("quantise", "-m", str(tiny), "-o", str(tiny), "--devices", "1")
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said == f"shardnet: There is something in {tiny} already. Name a new folder with --out."


def test_in_python(tiny: Path, made: Path, tmp_path: Path) -> None:
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        folder = cluster.quantise(tiny, tmp_path / "out", weights="int4-sym", text=calibration_text())
    assert (folder / "unit-00003.safetensors").read_bytes() == (made / "unit-00003.safetensors").read_bytes()
