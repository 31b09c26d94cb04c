"""A child that is forked from a process with a cluster: it is told so, and its end is not the cluster's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tiny_text_model import save_text_model

SCRIPT = """
import asyncio, os, signal, sys, time
import shardnet

def told_in_child(case):
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writing, repr(case()).encode())
        except shardnet.UsageError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert os.wait()[1] == 0
    with open(reading) as told:
        return told.read()

async def read_on():
    return [piece async for piece in model.astream("x")]

with shardnet.Cluster.local(1, threads_per_device=1) as cluster:
    model = cluster.load(sys.argv[1], dtype="float32", split=[6])
    stream = model.stream("a long answer", max_new_tokens=4000)
    next(stream)
    for case in (
        lambda: model.stream("x"), lambda: model.generate(["x"]), lambda: list(stream), lambda: asyncio.run(read_on()),
        model.report, model.reset_report, lambda: model.write_profile("profile"), cluster.describe,
        lambda: cluster.load(sys.argv[1]), lambda: shardnet.Cluster.connect("127.0.0.1:1"),
    ):
        told = told_in_child(case)
        assert f"belongs to process {os.getpid()}" in told and "spawn" in told, told
        assert "transport" not in told, told
    for end in (stream.close, model.close, cluster.close):
        assert told_in_child(end) == "None"
    if os.fork() == 0:
        sys.exit(0)  # leaves the block, drops everything, and runs what is registered for the exit
    assert os.wait()[1] == 0
    assert next(stream) is not None
    assert len(model.generate(["x"], max_new_tokens=3)[0].token_ids) <= 3
    devices = [device["pid"] for device in cluster.describe()]
    if (child := os.fork()) == 0:
        time.sleep(120)
        os._exit(0)
    print(child, *devices, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(200)
def test_a_forked_child_is_told_what_to_do_and_ends_nothing_of_its_parents(tmp_path: Path) -> None:
    """Once, it hung at its first use of the model, or at its end. And devices lived on with it when the parent died."""
    model = save_text_model(tmp_path / "model")
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(model)], stdout=out, stderr=err, cwd=tmp_path, timeout=150, check=False
        )
    assert done.returncode == -signal.SIGKILL, (tmp_path / "err").read_text()
    child, *devices = map(int, (tmp_path / "out").read_text().split())
    try:
        assert psutil.pid_exists(child)
        while any(psutil.pid_exists(device) for device in devices):
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
