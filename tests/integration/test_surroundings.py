"""Commands where something is lacking: streams closed or full, signals at bad moments, a folder that is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_text_model import save_text_model

COMMAND = f"{sys.executable} -m shardnet.launch.cli"
PLAN = f"{COMMAND} plan --model llama-2-7b --bits 4 --cluster home"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Buffered as a user's Python is, whatever runs these tests: what cannot be written may show at the end alone."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", line],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "exit_code", "out", "err"),
    [
        (f"{PLAN} | true; exit ${{PIPESTATUS[0]}}", 141, "", ""),
        (f"{PLAN} >/dev/full", 2, "", "shardnet: The output cannot be written: No space left on device. Make room"),
        (f"{PLAN} --json >/dev/full", 2, "", "shardnet: The output cannot be written: No space left on device. Make"),
        (f"{COMMAND} --version | true; exit ${{PIPESTATUS[0]}}", 141, "", ""),
        (f"{sys.executable} -m shardnet --version", 0, "shardnet 0", ""),
        (f"{COMMAND} --version >/dev/full", 2, "", "shardnet: The output cannot be written: No space left on device."),
        (f"{COMMAND} --version >&-", 2, "", "shardnet: Standard output is closed, and the result would be lost."),
        (f"{COMMAND} --version <&- 2>&-", 0, "shardnet 0", ""),
        (f"{COMMAND} --nonsense <&- 2>&-", 2, "", ""),
        (
            f"{COMMAND} generate --model x --prompt-file - <&-",
            2,
            "",
            "shardnet: There is no prompt: standard input is empty.",
        ),
        (f"{COMMAND} --nonsense 2>/dev/full", 2, "", ""),
        (f"{COMMAND} plan --nonsense", 2, "", "shardnet: No such option: --nonsense. See shardnet plan --help."),
        (f"{COMMAND} --version <&- >&- 2>&-", 2, "", ""),
    ],
)
def test_streams_may_be_closed_full_or_broken(line: str, exit_code: int, out: str, err: str) -> None:
    done = shell(line)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout.startswith(out) and bool(out) == bool(done.stdout)
    assert done.stderr.startswith(err) and done.stderr.count("\n") == bool(err)


def test_json_of_a_failure_is_an_object() -> None:
    done = shell(f"{COMMAND} generate --model x --json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (2, 2)
    assert done.stderr == f"shardnet: {told['error']}\n"


@pytest.mark.parametrize("command", ["cli demo", "launcher.run script.py"])
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_imports_is_quiet(
    tmp_path: Path, command: str, number: signal.Signals, exit_code: int
) -> None:
    """Once, it ended in a traceback. Here, the first package that is imported sends the signal."""
    (tmp_path / "script.py").touch()
    for package in ("typer", "torch"):
        (tmp_path / f"{package}.py").write_text(f"import signal\nsignal.raise_signal(signal.{number.name})\n")
    done = shell(f"cd {tmp_path}; {sys.executable} -m shardnet.launch.{command}", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "", "")


def test_a_deleted_folder_is_said(tmp_path: Path) -> None:
    program = "from shardnet.launch.cli import main; main()"
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -P -c '{program}' demo", HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "shardnet: The current folder does not exist any more. Change to another one: cd.\n"


@pytest.mark.root
@pytest.mark.parametrize(
    ("before", "model", "exit_code", "err"),
    [
        ("unshare -n", "tiny", 2, "This machine cannot reach itself at 127.0.0.1: Network is unreachable."),
        ("unshare -m sh -c 'umount -l /proc; exec \"$@\"' -", "tiny", 0, ""),
        (
            "unshare -m sh -c 'mount -t tmpfs -o size=3M none small; exec \"$@\"' -",
            "smollm2-135m-instruct",
            2,
            "cannot be prepared in small (No space left on device",
        ),
    ],
    ids=["no loopback", "no /proc", "full disk"],
)
def test_a_machine_may_lack_something(tmp_path: Path, before: str, model: str, exit_code: int, err: str) -> None:
    save_text_model(tmp_path / "tiny")
    (tmp_path / "small").mkdir()
    generate = f"{COMMAND} generate --model {model} --prompt hi -n 4 --devices 1 --split {6 if model == 'tiny' else 32}"
    done = shell(f"cd {tmp_path}; {before} {generate}", SHARDNET_CACHE="small")
    assert done.returncode == exit_code, done.stderr
    assert err in done.stderr.splitlines()[-1]
    assert "mistake" not in done.stderr
