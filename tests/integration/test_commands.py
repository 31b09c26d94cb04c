"""The commands as a user runs them: real processes, a tiny model, and in the end nothing is left over.

What is asked is done by a Python that is warm already; how a command starts and ends is looked at in a fresh one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import devices_of, is_over, wait_until
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

SHARDNET = [sys.executable, "-m", "shardnet.launch.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
CONTRACT = {
    "text",
    "token_ids",
    "prompt_tokens",
    "tokens_per_s",
    "time_to_first_token_s",
    "stages",
    "plan_version",
    "events",
}
STAGE_CONTRACT = {"device", "first_unit", "last_unit", "weight_bytes", "peak_rss_bytes", "compute_s"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True, scope="module")
def warm(warm_python: None) -> None:
    """`shardnet` below needs it."""


def shardnet(*arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [*WARM_PYTHON, "-m", "shardnet.launch.cli", *map(str, arguments)]
    return subprocess.run(
        command, env=ENVIRONMENT, input=text, capture_output=True, text=True, timeout=180, check=False, errors="replace"
    )


def answer(*arguments: object) -> dict[str, Any]:
    done = shardnet("generate", *arguments, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_json_keeps_its_contract_and_the_split_changes_nothing(model: Path) -> None:
    asked = ("--model", model, "--prompt", "Hello", "--dtype", "float32", "--max-new-tokens", 12)
    sampled = (*asked, "--temperature", 0.9, "--top-k", 50, "--seed", 5)
    one, three = answer(*sampled, "--devices", 1), answer(*sampled, "--devices", 3, "--split", "1,3,2")
    assert set(three) >= CONTRACT
    assert len(three["token_ids"]) == 12
    assert three["prompt_tokens"] == 5
    assert three["seed"] == 5
    assert [(each["device"], each["first_unit"], each["last_unit"]) for each in three["stages"]] == [
        ("device-0", 0, 0),
        ("device-1", 1, 3),
        ("device-2", 4, 5),
    ]
    assert all(set(each) >= STAGE_CONTRACT and each["compute_s"] > 0 for each in three["stages"])
    assert three["token_ids"] == one["token_ids"]


def test_several_prompts_are_answered_together(model: Path) -> None:
    told = answer("--model", model, "--prompt", "a", "--prompt", "bc", "--devices", 2, "--max-new-tokens", 4)
    assert [each["prompt_tokens"] for each in told["results"]] == [1, 2]
    assert [each["tokens_per_s"] for each in told["results"]] == [None, None], "four tokens say nothing of a rate"
    assert told["num_tokens"] == sum(len(each["token_ids"]) for each in told["results"])
    assert len(told["stages"]) == 2


def test_text_goes_to_stdout_and_the_rest_to_stderr(model: Path, tmp_path: Path) -> None:
    asked = ("generate", "--model", model, "--devices", 2, "--threads", 1, "-n", 6, "--dtype", "float32")
    plain = shardnet(*asked, "--prompt-file", "-", text="Hello")
    with_stats = shardnet(*asked, "--prompt", "Hello", "--stats", "--profile", tmp_path / "profile")
    assert (plain.returncode, with_stats.returncode) == (0, 0), with_stats.stderr
    assert plain.stdout == with_stats.stdout
    assert "tokens/s" not in plain.stderr
    for word in ("device-1", "tokens/s", "peak memory", "compute", "wire", "idle", "the first after"):
        assert word in with_stats.stderr
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    assert trace["traceEvents"]


def test_a_chat_uses_the_template(model: Path) -> None:
    told = answer("--model", model, "--prompt", "Hi", "--chat", "--devices", 1, "--max-new-tokens", 1)
    assert told["prompt_tokens"] == len("user: Hi\nanswer:")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "/no/such/model"], "There is no /no/such/model."),
        (["--model", str(Path(__file__).parent)], "There is no config.json in"),
        (["--devices", "7"], "7 devices are more than the 6 units"),
        (["--devices", "7", "--placement", "auto"], "7 devices are more than the 6 units"),
        (["--split", "1,1"], "the split must give all 6 units"),
        (["--context", "100000"], "context must be"),
        (["--prompt", "x" * 5000], "the prompt has 5000 tokens"),
        (["--context", "8", "-n", "7"], "the prompt has 2 tokens and the answer may have 7, but the context holds 8."),
        (["--cluster", "127.0.0.1"], "127.0.0.1"),
    ],
)
def test_what_the_files_show_is_said_before_devices_are_started(model: Path, options: list[str], sentence: str) -> None:
    """A prompt that was too long was once refused after all devices had loaded the model."""
    done = shardnet("generate", "--model", model, *([] if "--prompt" in options else ["--prompt", "hi"]), *options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("shardnet: ")
    assert sentence in last
    assert "starting devices" not in done.stderr


def test_a_family_that_cannot_be_cut_is_refused_before_devices_are_started(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    done = shardnet("generate", "--model", copy, "--prompt", "hi")
    assert done.returncode == 2 and "family 'mamba' are not supported" in done.stderr
    assert "starting devices" not in done.stderr


@pytest.fixture
def busy(model: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in mid-answer."""
    command = [*SHARDNET, "generate", "--model", str(model), "--prompt", "Hi", "--devices", "2", "--threads", "1"]
    command += ["--max-new-tokens", "4000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.read(1)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_ends_the_command_and_its_devices(
    busy: subprocess.Popen[bytes], number: signal.Signals, exit_code: int
) -> None:
    assert len(devices_of(busy.pid)) == 2
    children = [child.pid for child in psutil.Process(busy.pid).children(recursive=True)]
    busy.send_signal(number)
    assert busy.stdout is not None
    busy.stdout.read()
    assert busy.wait(10) == exit_code
    assert busy.stderr is not None
    assert b"Traceback" not in busy.stderr.read()
    wait_until(lambda: all(is_over(pid) for pid in children), timeout_s=5)


def test_a_killed_device_is_named_and_the_last_one_ends_the_command(busy: subprocess.Popen[bytes]) -> None:
    devices = devices_of(busy.pid)
    assert busy.stdout is not None and busy.stderr is not None
    lines = (line for line in map(bytes.decode, busy.stderr) if line.startswith("shardnet: "))
    for device, words in (("device-1", "go to device-0."), ("device-0", "and the others cannot take over")):
        os.kill(devices[device], signal.SIGKILL)
        start_s = time.monotonic()
        line = next(line for line in lines if "is lost" in line)
        assert time.monotonic() - start_s < 5
        assert f"{device} is lost" in line and words in line
    busy.stdout.read()
    assert busy.wait(10) == 1  # Python itself takes seconds to tidy up torch where other processes are at work
    assert busy.stderr.read() == b""
    assert all(is_over(pid) for pid in devices.values())


def test_a_reader_that_leaves_ends_the_command_quietly(busy: subprocess.Popen[bytes]) -> None:
    """As with `shardnet generate ... | head`."""
    devices = devices_of(busy.pid)
    assert busy.stdout is not None
    busy.stdout.close()
    assert busy.wait(20) == 141
    assert busy.stderr is not None
    assert b"Traceback" not in busy.stderr.read()
    assert all(is_over(pid) for pid in devices.values())


def test_a_command_uses_the_devices_of_shardnet_run(model: Path) -> None:
    command = [*WARM_PYTHON, "-m", "shardnet.launch", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["shardnet.launch.cli", "generate", "--model", str(model), "--prompt", "Hi", "--json", "-n", "3"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {each["device"] for each in json.loads(done.stdout)["stages"]} == {"device-0", "device-1"}
