"""Damaged problem files, cluster files, model files, events, plans and options, through the command line's own entry.

Whatever they say, a command ends with 0, 2 or 3: a result, or one sentence on standard error that quotes little of it;
never with "a mistake in shardnet", a traceback or a warning.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from damaged_problems import commands
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from shardnet.launch import cli

QUIET_S = 5.0
MOST_BYTES = 500e6
OF_OTHER_TESTS = re.compile("unclosed (event loop|<socket|transport)")
"""What they have left to the garbage collector of this process. No command of these has a socket."""


def ended(arguments: list[str]) -> tuple[int, str, str, list[str]]:
    """Exit code, both outputs and the warnings of a command that is run in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["shardnet", *arguments]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    heard = [str(each.message) for each in told if not issubclass(each.category, DeprecationWarning)]
    heard = [each for each in heard if not OF_OTHER_TESTS.search(each)]
    return code, out.getvalue(), err.getvalue(), heard


def check(arguments: list[str], code: int, out: str, err: str, heard: list[str]) -> None:
    shown = [each[:200] for each in arguments]
    assert code in (0, 2, 3), (shown, code, err)
    assert not heard, (shown, heard)
    assert "Traceback" not in err and "mistake in shardnet" not in err, (shown, err)
    if code:
        sentences = err.strip().splitlines()
        assert len(sentences) == 1 and sentences[0].startswith("shardnet: "), (shown, err)
        assert len(err) < 3000, shown
    elif "--json" in arguments:
        json.loads(out, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def tried(data: st.DataObject) -> tuple[list[str], int]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = data.draw(commands(Path(folder)))
        code, out, err, heard = ended(arguments)
    check(arguments, code, out, err, heard)
    return arguments, code


CHECKS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=250, derandomize=True, **CHECKS)
@given(data=st.data())
def test_damaged_inputs_are_results_or_one_sentence(data: st.DataObject) -> None:
    tried(data)


@pytest.mark.long
@seed(20261124)
@settings(max_examples=3000, **CHECKS)
@given(data=st.data())
def test_many_damaged_inputs_take_little_time_and_memory(data: st.DataObject) -> None:
    began_s, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arguments, code = tried(data)
    took_s = time.process_time() - began_s
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert took_s < QUIET_S and more < MOST_BYTES, ([each[:200] for each in arguments], code, took_s, more)


def test_damaged_inputs_of_real_processes(tmp_path: Path) -> None:
    """With 2 GiB of address space and no more: pipes that nobody writes to, endless devices, deep nesting."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "deep.json").write_text("[" * 1_000_000)
    for name, said in (("pipe", "a pipe"), ("zero", "a device"), ("deep", "nested deeper")):
        run = subprocess.run(
            [sys.executable, "-m", "shardnet.launch.cli", "plan", "--problem", str(tmp_path / f"{name}.json")],
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30,) * 2),
            check=False,
        )
        assert (run.returncode, run.stdout) == (2, ""), run
        assert said in run.stderr and len(run.stderr.splitlines()) == 1
