"""What a load sends: names by content, and no path of anybody's machine. Whole devices, in one process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_text_model import save_text_model

from shardnet.cluster import survey
from shardnet.cluster.cluster import Cluster
from shardnet.cluster.copies import require_copies
from shardnet.device import stage_host
from shardnet.device.worker import Worker
from shardnet.errors import DamagedCheckpoint
from shardnet.loader import enter, fingerprint, open_model
from shardnet.loader.places import TensorPlace
from shardnet.progress import silent
from shardnet.transport.in_process import network as in_process
from shardnet.transport.in_process.network import InProcessNetwork


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Little is measured, and nothing of this machine is seen."""
    monkeypatch.setattr(survey, "PROFILE_S", 0.1)
    monkeypatch.setattr(survey, "LINK_S", 0.05)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


@contextmanager
def cluster_of(*caches: Path) -> Iterator[Cluster]:
    """Devices "a", "b" ... in this process, each with a cache folder of its own."""
    names = [chr(ord("a") + index) for index in range(len(caches))]
    with ExitStack() as stack:
        network = stack.enter_context(InProcessNetwork())
        for name, cache in zip(names, caches, strict=True):
            stack.enter_context(Worker(1, cache)).attach(network.join(name))
        with Cluster(network.join("coordinator"), names, ExitStack(), None) as cluster:
            yield cluster


def texts_in(value: Any) -> Iterator[str]:
    """Every string and every key in a message."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from texts_in(each)


def test_no_path_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's paths of the model, of its files and of the profiles used to go to every device."""
    sent: list[Any] = []

    class RecordingParcel(in_process.Parcel):
        def __init__(self, content: Any) -> None:
            super().__init__(content)
            sent.append(content)

    model = save_text_model(tmp_path / "model")
    monkeypatch.setattr(in_process, "Parcel", RecordingParcel)
    with (
        cluster_of(tmp_path / "a", tmp_path / "b") as cluster,
        cluster.load(model, dtype="float32", cache_dir=tmp_path / "c", progress=silent) as loaded,
    ):
        assert loaded.generate(["hello"], max_new_tokens=4)[0].token_ids
    texts = [text for message in sent for text in texts_in(message)]
    assert len(texts) > 100 and "model.norm.weight" in texts
    assert not [text for text in texts if os.path.isabs(text) or str(tmp_path) in text]
    assert list((tmp_path / "a" / "profiles").iterdir()), "a device keeps its profile in its own cache folder"


def test_a_device_finds_its_own_copy_or_fetches_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_text_model(tmp_path / "model")
    monkeypatch.setattr("shardnet.loader.copy_index._shared_folder", lambda: None)  # as if on machines of their own
    opened: list[Path] = []
    load_shard = stage_host.load_shard

    def watched(config: Any, places: dict[str, TensorPlace], *args: Any, **options: Any) -> Any:
        opened.append(Path(next(iter(places.values())).file).parent)
        return load_shard(config, places, *args, **options)

    monkeypatch.setattr(stage_host, "load_shard", watched)
    options = {"dtype": "float32", "split": [3, 3], "cache_dir": tmp_path / "a", "progress": silent}
    with cluster_of(tmp_path / "a", tmp_path / "b") as cluster:
        cluster.load(model, **options).close()
        shutil.copytree(model, tmp_path / "copy of b")
        copy = fingerprint(open_model(str(tmp_path / "copy of b"), "float32").copy, tmp_path / "b")
        assert copy is not None
        enter(copy, tmp_path / "b")
        monkeypatch.setattr("shardnet.cluster.copies.AT_ONCE_BYTES", 0)
        shutil.rmtree(tmp_path / "a" / "parts")  # a large model, never hashed: b cannot follow its files' stamps
        with cluster.load(model, **options) as loaded:
            assert loaded.generate(["hello"], max_new_tokens=4)[0].token_ids
    fetched = tmp_path / "b" / "fetched" / "tensors"
    assert sorted(opened) == sorted([fetched, tmp_path / "model", tmp_path / "copy of b", tmp_path / "model"])


def test_the_first_load_of_a_large_model_hashes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of the coordinator's machine follow its files' stamps, whatever cache folders they have."""
    model = save_text_model(tmp_path / "model")
    monkeypatch.setattr("shardnet.cluster.copies.AT_ONCE_BYTES", 0)
    monkeypatch.setattr("shardnet.loader.hashing._hash_file", lambda *_: pytest.fail("hashed"))
    with (
        cluster_of(tmp_path / "a", tmp_path / "b") as cluster,
        cluster.load(model, dtype="float32", split=[3, 3], cache_dir=tmp_path / "c", progress=silent) as loaded,
    ):
        assert loaded.generate(["hello"], max_new_tokens=4)[0].token_ids
        with pytest.raises(DamagedCheckpoint, match=r"model.safetensors has changed since its model was opened"):
            monkeypatch.setattr("shardnet.cluster.loading.require_copies", touched(model))
            cluster.load(model, dtype="float32", split=[3, 3], cache_dir=tmp_path / "c", progress=silent)


def touched(model: Path) -> Any:
    """As `require_copies`; then somebody writes to the model, before the devices open it."""

    def require(*args: Any) -> Any:
        named = require_copies(*args)
        os.utime(model / "model.safetensors")
        return named

    return require
