"""Coordinators that are killed, one after the other, over devices that live on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import alone
from integration.rpc_device import FORKED
from tiny_text_model import save_text_model

import shardnet
from shardnet.cluster.local_workers import LocalWorkers
from shardnet.transport import serve_door

pytestmark = pytest.mark.usefixtures("warm_devices")

NAMES = ["device-0", "device-1", "device-2"]
PROMPTS = [[5, 6, 7, 8], [40, 41, 42, 43, 44, 45], list(range(100, 140))]
NUM_TOKENS = 12
MOST_MORE_BYTES = 24 * 2**20
"""What an allocator may keep of what was freed."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its stages are far larger than what an allocator may keep."""
    return save_text_model(tmp_path_factory.mktemp("tiny"), intermediate=20_000)


@pytest.fixture(scope="module")
def endpoint(warm_devices: None) -> Iterator[str]:
    with serve_door() as door, LocalWorkers(door.endpoint, NAMES, threads=1):
        yield door.endpoint


def coordinate(endpoint: str, folder: str, pipe: Connection) -> None:
    """Answer, tell how the devices are, begin long answers, and be killed in the middle of them."""
    with shardnet.Cluster.connect(endpoint, num_devices=len(NAMES)) as cluster:
        model = cluster.load(folder, dtype="float32", split=[2, 2, 2], standby="cold")
        results = model.generate(PROMPTS, max_new_tokens=NUM_TOKENS)
        streams = [iter(model.stream(prompt, max_new_tokens=1000)) for prompt in PROMPTS]
        for stream in streams:
            next(stream)
        pipe.send([result.token_ids for result in results])
        while (asked := pipe.recv()) == "how are they?":
            reports = model.report()
            pipe.send((cluster.describe(), [report.kv_reserved_bytes for report in reports]))
        assert asked == "leave"


class Coordinator:
    def __init__(self, endpoint: str, folder: Path) -> None:
        self.pipe, end = FORKED.Pipe()
        self._process = FORKED.Process(target=coordinate, args=(endpoint, str(folder), end), daemon=True)
        self._process.start()

    def answers(self) -> list[list[int]]:
        assert self.pipe.poll(120), "the coordinator gave no answer"
        answers: list[list[int]] = self.pipe.recv()
        return answers

    def devices(self) -> dict[str, dict[str, Any]]:
        self.pipe.send("how are they?")
        described, _ = self.pipe.recv()
        return {each["device"]: each for each in described}

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def leave(self) -> None:
        self.pipe.send("leave")
        self._process.join(30)
        assert self._process.exitcode == 0


@pytest.mark.parametrize("num_killed", [3, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
def test_killed_coordinators_leave_nothing_behind_and_the_next_one_is_right(
    endpoint: str, tiny: Path, num_killed: int
) -> None:
    """Once, each left a computing thread, weights and KV caches on every device for good, and of four second
    coordinators two failed, one found no room, and one got another text: plans and sessions were counted from 1 again.
    """
    expected = alone(tiny, PROMPTS, NUM_TOKENS)
    first = Coordinator(endpoint, tiny)
    assert first.answers() == expected
    at_start = first.devices()
    first.kill()
    for _ in range(num_killed - 1):
        coordinator = Coordinator(endpoint, tiny)
        assert coordinator.answers() == expected
        coordinator.kill()
    last = Coordinator(endpoint, tiny)
    assert last.answers() == expected

    deadline = time.monotonic() + 10
    while more := more_than(at_start, last.devices()):
        assert time.monotonic() < deadline, f"more than at the start: {more}"
        time.sleep(0.1)
    last.leave()


def more_than(at_start: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """By device: threads and bytes that it has now and had not at the start. None where that is next to nothing."""
    found = {
        name: tuple(now[name][what] - before[what] for what in ("num_os_threads", "rss_bytes"))
        for name, before in at_start.items()
    }
    return {name: more for name, more in found.items() if more[0] > 0 or more[1] > MOST_MORE_BYTES}
