"""Devices that are processes with cache folders of their own, as on hosts of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from in_process_ring import alone
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

import shardnet
from shardnet.transport import serve_door

PROMPT = [5, 6, 7, 8, 9]


@pytest.mark.usefixtures("warm_python")
def test_a_device_elsewhere_fetches_its_own_units(tmp_path: Path) -> None:
    """It used to be sent the coordinator's path, and later to be refused."""
    model = save_text_model(tmp_path / "model")
    door = serve_door("127.0.0.1")
    endpoint = door.endpoint
    folders = {"SHARDNET_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    command = [*WARM_PYTHON, "-m", "shardnet.device.process", "--endpoint", endpoint, "--name"]
    workers = [
        subprocess.Popen([*command, name], env=os.environ | own) for name, own in (("near", {}), ("pixel-7", folders))
    ]
    try:
        options = {"dtype": "float32", "split": [3, 3], "cache_dir": tmp_path / "other", "standby": "none"}
        with (
            shardnet.Cluster.connect(endpoint, num_devices=2) as cluster,
            cluster.load(model, **options) as loaded,
        ):
            [result] = loaded.generate([PROMPT], max_new_tokens=8)
            assert result.token_ids == alone(model, [PROMPT], 8)[0]
            [event] = [event for event in loaded.events if event.event == "fetched"]
            assert event.device == "pixel-7" and "from near in " in event.text
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        door.close()
