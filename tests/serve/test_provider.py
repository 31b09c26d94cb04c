"""Which model answers beside a cluster that comes and goes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shardnet.errors import JoinFailed
from shardnet.process.state_folder import StateFolder
from shardnet.serve.provider import OfCluster


class Joined:
    """A cluster as a source sees it, whose model nobody asks anything."""

    is_over = False

    def model_now(self) -> str:
        return "a model"


def test_a_model_is_remembered_no_longer_than_its_cluster_runs(tmp_path: Path) -> None:
    """Within half a second of a kill, a request went to it, and waited a minute for its coordinator."""
    cluster: Any = Joined()
    provider = OfCluster(cluster, tmp_path / "state")
    with closing(StateFolder(tmp_path / "state")):
        assert provider.model() == provider.model() == "a model"
    with pytest.raises(JoinFailed, match="No cluster runs"):
        provider.model()
