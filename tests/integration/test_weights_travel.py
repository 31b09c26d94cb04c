"""Devices that are processes with cache folders of their own, as on hosts of their own: they fetch what they lack."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import alone
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

import shardnet
from shardnet.errors import ClusterError
from shardnet.process.threads import on_thread
from shardnet.transport import serve_door

PROMPT = [5, 6, 7, 8, 9]
NUM_TOKENS = 8
pytestmark = pytest.mark.usefixtures("warm_python")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12.7 MB in four blocks, most of it in tensors of 1 MB."""
    return save_text_model(tmp_path_factory.mktemp("shipped"), intermediate=4096)


class Away:
    """A door, and devices that have no copy of any model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._resources = ExitStack()
        self.door = self._resources.enter_context(serve_door("127.0.0.1"))
        self.shown: list[tuple[str, float, float]] = []

    def start(self, name: str, *options: str, is_near: bool = False) -> subprocess.Popen[bytes]:
        """Args: `is_near`, on the machine of the coordinator."""
        own = self._folder / name
        own.mkdir(exist_ok=True)
        folders = {} if is_near else {"SHARDNET_CACHE": str(own / "cache"), "TMPDIR": str(own)}
        command = [*WARM_PYTHON, "-m", "shardnet.device.process", "--endpoint", self.door.endpoint, "--name", name]
        process = subprocess.Popen([*command, *options], env=os.environ | folders)
        self._resources.callback(process.wait)
        self._resources.callback(process.kill)
        return process

    def fetched(self, name: str) -> int:
        """Bytes of weights on a device's disk."""
        tensors = (self._folder / name).glob("cache/fetched/tensors/*.bin")
        return sum(path.stat().st_blocks * 512 for path in tensors)

    def connect(self, num_devices: int) -> shardnet.Cluster:
        cluster = shardnet.Cluster.connect(self.door.endpoint, num_devices=num_devices)
        assert isinstance(cluster, shardnet.Cluster)
        return cluster

    def load(self, cluster: shardnet.Cluster, model: Path, split: list[int]) -> Any:
        def show(what: str, done: float, total: float) -> None:
            self.shown.append((what, done, total))

        options: dict[str, Any] = {"split": split, "cache_dir": self._folder / "coordinator", "standby": "none"}
        return cluster.load(model, dtype="float32", progress=show, **options)

    def close(self) -> None:
        self._resources.close()


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Away]:
    devices = Away(tmp_path)
    yield devices
    devices.close()


def answer(loaded: Any) -> list[int]:
    [result] = loaded.generate([PROMPT], max_new_tokens=NUM_TOKENS)
    ids: list[int] = result.token_ids
    return ids


def what_came(loaded: Any) -> str:
    """What the one event of a fetch says."""
    [event] = [event for event in loaded.events if event.event == "fetched"]
    text: str = event.text
    return text


def test_a_device_elsewhere_fetches_its_own_units(away: Away, model: Path) -> None:
    """It used to be sent the coordinator's path, and later to be refused."""
    away.start("near", is_near=True)
    away.start("pixel-7")
    with away.connect(2) as cluster, away.load(cluster, model, [3, 3]) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        text = what_came(loaded)
    assert text.startswith("pixel-7 has fetched units 3-5: ") and " MB from near in " in text


def test_a_device_that_is_killed_in_the_middle_goes_on_where_it_was(away: Away, model: Path) -> None:
    """Of a transfer that is cut at 60%, at most 45% are sent afterwards."""
    device = away.start("pixel-7", "--fetch-bytes-per-s", "5000000")
    with away.connect(1) as cluster:
        loading = on_thread("load", lambda: away.load(cluster, model, [6]))
        while not (shown := [total for what, _, total in away.shown if "fetching" in what]):
            assert not loading.done(), loading.exception()
        whole = shown[0]
        while away.fetched("pixel-7") < 0.6 * whole:
            assert not loading.done(), loading.exception()
        device.kill()
        with pytest.raises(ClusterError, match="pixel-7 is lost"):
            loading.result()
    away.shown.clear()
    away.start("pixel-7")
    with away.connect(1) as cluster, away.load(cluster, model, [6]) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
    again = next(total for what, _, total in away.shown if "fetching" in what)
    assert 0 < again <= 0.45 * whole


def test_a_third_device_fetches_from_the_second_and_finds_its_flipped_byte(
    away: Away, model: Path, tmp_path: Path
) -> None:
    second = away.start("phone")
    with away.connect(1) as cluster:
        away.load(cluster, model, [6]).close()
        flip_first(max(tmp_path.glob("phone/cache/fetched/tensors/*.bin"), key=lambda path: path.stat().st_size))
        away.start("tablet")
        while "tablet" not in cluster._transport.members():
            assert second.poll() is None
        cluster.take_in("tablet")
        with away.load(cluster, model, [0, 6]) as loaded:
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
            text = what_came(loaded)
    assert "from phone and coordinator in " in text, "all but one part from the second one"
    assert text.endswith("what phone sent was damaged in part, and was fetched anew")


def flip_first(path: Path) -> None:
    """Change the first byte of a file."""
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))
