"""Scripts in the manner of torch's elastic examples, under torchrun and under `shardnet-run --every-node`, compared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import is_over, wait_until
from warm_python import WARM_PYTHON, warm_program

TORCHRUN = [*WARM_PYTHON, "-m", "torch.distributed.run"]
SHARDNET_RUN = [*WARM_PYTHON, "-m", "shardnet.launch", "--every-node"]
VARIABLES = [
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID"),
    *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
]
SCRIPTS = {
    "environment.py": f"""
        import os, sys
        names = {VARIABLES}
        assert int(os.environ["MASTER_PORT"]) > 0 and os.environ["MASTER_ADDR"]
        print(*(f"{{name}}={{os.environ.get(name)}}" for name in names), *sys.argv[1:], __name__)
        """,
    "both_streams.py": """
        import os, sys
        print("apple", os.environ["RANK"])
        print("pear", os.environ["RANK"])
        print("orange", os.environ["RANK"], file=sys.stderr)
        """,
    "second_time.py": """
        import os, sys
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
        print("attempt", attempt, "rank", os.environ["RANK"], flush=True)
        if attempt == "0":
            sys.exit(3 if os.environ["RANK"] == "1" else 0)
        """,
    "recorded.py": """
        import os
        from torch.distributed.elastic.multiprocessing.errors import record
        @record
        def main():
            if os.environ["RANK"] == "1":
                raise ValueError("rank 1 has a reason")
        if __name__ == "__main__":
            main()
        """,
    "plain_error.py": "raise KeyError('nobody records this')",
    "killed.py": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
}


class Run(NamedTuple):
    """What is left of a run."""

    succeeded: bool
    shown: list[str]
    """The lines of standard output, sorted: processes print at the same time."""
    logs: dict[str, str]
    """By name, without the launcher's own part of it."""
    said: str


def run(command: list[str], folder: Path, options: list[str]) -> Run:
    log_dir = folder / f"logs-{command[-1].strip('-')}"
    command = [*command, "--log-dir", str(log_dir), *options]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    [own] = log_dir.iterdir()
    assert re.fullmatch(r"(none|job-7|[0-9a-f-]{32,})_\w{8}", own.name)
    files = [file for file in own.rglob("*") if file.is_file() and "devices" not in file.parts]
    logs = {str(file.relative_to(own)): "\n".join(sorted(file.read_text().splitlines())) for file in files}
    return Run(done.returncode == 0, sorted(done.stdout.splitlines()), logs, done.stderr)


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


@pytest.fixture(autouse=True, scope="module")
def folder(warm_python: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("scripts")
    for name, text in SCRIPTS.items():
        lines = text.strip("\n").rstrip().splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (made / name).write_text("\n".join(line[indent:] for line in lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHON_EXEC", str(warm_program(made)))
        yield made


def both(folder: Path, *options: str) -> tuple[Run, Run]:
    with ThreadPoolExecutor(2) as pool:
        theirs, ours = pool.map(lambda command: run(command, folder, list(options)), (TORCHRUN, SHARDNET_RUN))
    return theirs, ours


@pytest.mark.parametrize(
    "options",
    [
        [
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "localhost:0",
            "--rdzv-id",
            "job-7",
            "--nproc-per-node",
            "2",
            "-r",
            "3",
            "environment.py",
            "-r",
            "${local_rank}",
        ],
        ["--nproc_per_node=2", "--role", "demo", "--max_restarts=1", "-t", "1:3", "-m", "environment", "--x"],
        ["--virtual-local-rank", "--local-ranks-filter", "0", "--nproc-per-node", "2", "environment.py"],
        ["--no-python", "/bin/sh", "-c", "echo $RANK of $WORLD_SIZE in $0 ${local_rank}"],
        ["--run-path", "environment.py"],
        ["--nproc-per-node", "2", "--tee", "3", "--duplicate-stdout-filters", "pear,plum", "both_streams.py"],
        ["--nproc-per-node", "2", "-r", "0:1,1:2", "both_streams.py"],
        ["--nproc-per-node", "2", "-r", "3", "--max-restarts", "2", "second_time.py"],
    ],
    ids=lambda options: options[-1] if options[-1].endswith(".py") else options[-2],
)
def test_what_succeeds_prints_and_logs_the_same(folder: Path, tmp_path: Path, options: list[str]) -> None:
    for name in SCRIPTS:
        (tmp_path / name).symlink_to(folder / name)
    theirs, ours = both(tmp_path, *options)
    assert theirs.succeeded and ours.succeeded, theirs.said + ours.said
    own_id = re.compile(r"TORCHELASTIC_RUN_ID=\S+")
    assert [own_id.sub("", line) for line in ours.shown] == [own_id.sub("", line) for line in theirs.shown]
    assert ours.logs.keys() == theirs.logs.keys()
    if "job-7" in options:
        assert ours.logs == theirs.logs


@pytest.mark.parametrize("name", ["recorded.py", "plain_error.py", "killed.py", "second_time.py"])
def test_what_fails_fails_alike(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(folder / name)
    theirs, ours = both(tmp_path, "--nproc-per-node", "2", "-r", "1", name)
    assert not theirs.succeeded and not ours.succeeded
    assert ours.logs.keys() == theirs.logs.keys()
    if name == "recorded.py":
        noted = [json.loads(each.logs["attempt_0/1/error.json"])["message"] for each in (theirs, ours)]
        assert noted[0]["message"] == noted[1]["message"] == "ValueError: rank 1 has a reason"
        assert re.search(
            r"recorded.py of rank 1 \(local rank 1, pid \d+\) ended with exit code 1: ValueError: rank 1", ours.said
        )
    assert "launch/launcher" not in ours.said


def test_an_exit_code_is_passed_on_and_so_is_the_reason(folder: Path, tmp_path: Path) -> None:
    """torchrun makes 1 of each. Whoever has started the launcher may want its error file, as with torchrun."""
    command = [*SHARDNET_RUN, "--nproc-per-node", "2"]
    for name, code in {"second_time.py": 3, "killed.py": 128 + signal.SIGSEGV, "recorded.py": 1}.items():
        done = subprocess.run(
            [*command, str(folder / name)],
            env={**ENVIRONMENT, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "reason.json")},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert json.loads((tmp_path / "reason.json").read_text())["message"]["message"] == "ValueError: rank 1 has a reason"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_and_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "patient.py"
    script.write_text(
        "import os, signal\n"
        "def end(number, frame):\n    os.write(1, f'ends by {number}\\n'.encode())\n    os._exit(0)\n"
        f"signal.signal({int(number)}, end)\n"
        "os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "while True:\n    signal.pause()\n"
    )
    command = [*SHARDNET_RUN, "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1", str(script)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        launcher.send_signal(number)
        assert launcher.stdout.readline() == f"ends by {int(number)}\n"
        assert launcher.wait(60) == 128 + number
    wait_until(lambda: is_over(pid))
