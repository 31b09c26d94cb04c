"""What `Cluster.load` does around a load: where it keeps what it makes, and what it leaves when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process_ring import load, ring_in_process
from tiny_text_model import save_text_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("tiny"))


def test_what_is_kept_goes_where_the_environment_says(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SHARDNET_CACHE` held for commands, and a script's own load went to the home folder."""
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, tiny):
        assert {"checkpoints", "parts"} <= {entry.name for entry in (tmp_path / "cache").iterdir()}
