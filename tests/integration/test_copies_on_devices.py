"""Devices that are processes with cache folders of their own, as on hosts of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

import shardnet
from shardnet.errors import ModelNotFound
from shardnet.transport import serve_door


@pytest.mark.usefixtures("warm_python")
def test_a_device_elsewhere_has_no_copy_and_says_so(tmp_path: Path) -> None:
    """It used to be sent the coordinator's path, and would have read whatever lies there on its own disk."""
    model = save_text_model(tmp_path / "model")
    door = serve_door("127.0.0.1")
    endpoint = door.endpoint
    folders = {"SHARDNET_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    command = [*WARM_PYTHON, "-m", "shardnet.device.process", "--endpoint", endpoint, "--name"]
    workers = [
        subprocess.Popen([*command, name], env=os.environ | own) for name, own in (("near", {}), ("pixel-7", folders))
    ]
    try:
        with shardnet.Cluster.connect(endpoint, num_devices=2) as cluster:
            with pytest.raises(ModelNotFound, match=r"^pixel-7 has no copy of model \(checkpoint ") as refused:
                cluster.load(model, dtype="float32", split=[3, 3], cache_dir=tmp_path / "other")
            assert refused.value.exit_code == 2 and str(tmp_path) not in str(refused.value)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        door.close()
