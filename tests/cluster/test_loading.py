"""What `Cluster.load` does around a load: where it keeps what it makes, and what it leaves when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
from in_process_ring import load, ring_in_process

from shardnet.cluster import cluster as cluster_module
from shardnet.cluster.cluster import COORDINATOR, Cluster
from shardnet.cluster.deployment import Deployment
from shardnet.errors import BadRequest, DeviceLost
from shardnet.loader import open_model
from shardnet.progress import silent
from shardnet.transport import RpcTransport


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_goes_where_the_environment_says(tiny: Path, cache: Path) -> None:
    """`SHARDNET_CACHE` held for commands, and a script's own load went to the home folder."""
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, tiny):
        assert {"checkpoints", "parts"} <= {entry.name for entry in cache.iterdir()}


def test_a_model_that_was_opened_in_another_dtype_is_refused(tiny: Path, cache: Path) -> None:
    """It was an AssertionError without a word."""
    files = open_model(str(tiny), "float32")
    with ring_in_process() as ring, ring.connect() as cluster:
        with pytest.raises(BadRequest, match="was opened as float32, but dtype is bfloat16"):
            cluster.load(files)
        with pytest.raises(BadRequest, match="a model is a path or a hub id, but this is 3"):
            cluster.load(3)  # type: ignore[arg-type]


def test_ctrl_c_while_a_verdict_is_waited_for_leaves_nothing(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages stayed on their devices as long as the cluster."""

    def broken(*_: object) -> NoReturn:
        raise DeviceLost("the connection to b broke", "b")

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with ring_in_process() as ring, ring.connect() as cluster:
        monkeypatch.setattr(Deployment, "wait_until_loaded", broken)
        monkeypatch.setattr(Deployment, "verdict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(cluster, tiny)
        assert not cluster._deployments


def test_a_cluster_that_cannot_be_made_leaves_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was to end had been taken from whoever made it."""

    def refused(*_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with ring_in_process() as ring:
        monkeypatch.setattr(RpcTransport, "join", lambda *_, **__: ring.network.join(COORDINATOR))
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(cluster_module, "Watch", refused)
            Cluster.connect("127.0.0.1:1", num_devices=3, progress=silent)
        with Cluster.connect("127.0.0.1:1", num_devices=3, progress=silent) as cluster:
            assert [answer["device"] for answer in cluster.describe()] == ring.names
