"""What tests of stages begin with."""

from __future__ import annotations

import pytest
from in_process_ring import load, ring_in_process
from tiny_text_model import save_text_model

from shardnet.transport.messages import StageSpec


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageSpec, ...]:
    """Of three stages."""
    tiny = save_text_model(tmp_path_factory.mktemp("tiny"))
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, tiny) as model:
        return model._deployment.ring.specs
