"""The examples of the documentation run as a reader would paste them: Python, and what is typed into a shell.

An HTML comment above a block, which a reader does not see, says what else it may be:

    <!-- not run: WHY -->      what cannot run here: it installs something, or is what was printed once
    <!-- file: NAME -->        the content of a file that other examples name
    <!-- stays: WHY -->        a command that goes on until it is ended
    <!-- meanwhile: WHY -->    what is typed while that runs, one line after the other
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import pytest
from warm_python import WARM_PYTHON, warm_program

from docs.make_api import TARGET, reference

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (
    "README.md",
    "docs/quickstart.md",
    "docs/planning.md",
    "docs/reliability.md",
    "docs/extending.md",
    "docs/launcher.md",
    "docs/transformers.md",
)
BLOCK = re.compile(
    r"(?:^<!-- (file|not run|stays|meanwhile): *(.*?) *-->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
AT_ONCE = 2
Done = subprocess.CompletedProcess[str]


class Block(NamedTuple):
    """A fenced block of a document."""

    place: str
    mark: str
    """`file`, `not run`, `stays`, `meanwhile`, or nothing."""
    about: str
    language: str
    text: str


def blocks() -> list[Block]:
    return [
        Block(f"{document}-{number}", *found.groups(default=""))
        for document in DOCUMENTS
        for number, found in enumerate(BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")), 1)
    ]


BLOCKS = blocks()
EXAMPLES = [
    pytest.param(block.text, id=block.place) for block in BLOCKS if block.language == "python" and not block.mark
]


def lines_of(block: Block) -> list[str]:
    """What is typed into a shell: one command a line."""
    lines = [line.partition("  #")[0].strip() for line in block.text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


LINES = list(
    dict.fromkeys(line for block in BLOCKS if not block.language and not block.mark for line in lines_of(block))
)
"""Each of them once."""
PROFILE = "shardnet profile --max-seconds 10"


def run(command: list[str], folder: Path) -> Done:
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, warm_python: None) -> Path:
    """A folder with the installed commands."""
    folder = tmp_path_factory.mktemp("commands")
    for name, module in {"shardnet": "shardnet.launch.cli", "shardnet-run": "shardnet.launch"}.items():
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {shlex.join(WARM_PYTHON)} -m {module} "$@"\n', encoding="utf-8")
        command.chmod(0o755)
    ENVIRONMENT["PYTHON_EXEC"] = str(warm_program(folder))
    return folder


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> Iterator[dict[str, Future[Done]]]:
    """All lines at work, two at a time, in one folder with the files that the documents show.

    First this machine is measured, as the documents say. All others plan with that, and so do the examples in Python.
    """
    folder = tmp_path_factory.mktemp("reader")
    for block in BLOCKS:
        if block.mark == "file":
            (folder / block.about).write_text(block.text, encoding="utf-8")
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    with_path = f"export PATH={path!r}; "
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def type_in(line: str) -> Future[Done]:
            return pool.submit(run, ["bash", "-ec", with_path + line], folder)

        assert PROFILE in LINES
        profiled = type_in(PROFILE)
        wait([profiled])
        yield {PROFILE: profiled} | {line: type_in(line) for line in LINES if line != PROFILE}


@pytest.mark.parametrize("line", LINES)
def test_a_command_runs(line: str, typed: dict[str, Future[Done]]) -> None:
    done = typed[line].result()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a command shows something"
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    done = run([*WARM_PYTHON, "-c", example], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example shows something"
    assert "Traceback" not in done.stderr


def test_a_cluster_that_stays_answers_meanwhile(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setitem(ENVIRONMENT, "PATH", os.pathsep.join([str(commands), os.environ["PATH"]]))
    [[stays]] = [lines_of(block) for block in BLOCKS if block.mark == "stays"]
    meanwhile = [block for block in BLOCKS if block.mark == "meanwhile"]
    with subprocess.Popen(
        ["bash", "-c", f"exec {stays}"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            assert any("is loaded" in line for line in running.stdout)
            for block in meanwhile:
                is_python = block.language == "python"
                typed = (
                    [[*WARM_PYTHON, "-c", block.text]] if is_python else [["bash", "-ec", x] for x in lines_of(block)]
                )
                for command in typed:
                    done = run(command, tmp_path)
                    assert done.returncode == 0, done.stderr
                    assert done.stdout.strip() and "Traceback" not in done.stderr
        finally:
            running.send_signal(signal.SIGINT)
        assert running.stdout.read().endswith("The cluster has ended.\n")
        assert running.wait(30) == 0


def test_what_is_not_run_says_why() -> None:
    marked = [block for block in BLOCKS if block.mark]
    assert all(len(block.about.split()) > 2 for block in marked if block.mark != "file")
    assert {block.about for block in marked if block.mark == "file"} == {
        "cluster.yaml",
        "devices.py",
        "flaky.py",
        "mine.yaml",
        "problem.json",
        "script.py",
    }
    assert {block.language for block in BLOCKS} <= {"", "python", "yaml", "json"}
    assert len(LINES) > 8, "the blocks are found"


def test_the_reference_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_links_lead_somewhere() -> None:
    for file in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name} links to {link}, which does not exist"
