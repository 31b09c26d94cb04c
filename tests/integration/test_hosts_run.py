"""`shardnet-run` over two hosts, each a network namespace: the script runs on one, devices come from both."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cluster_of_hosts import Command
from namespaces import Namespaces, why_not
from processes import wait_until
from tiny_text_model import save_text_model
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]
PORT = 29500
SCRIPT = """
import json, sys, shardnet
with shardnet.Cluster.connect() as cluster:
    told = {"devices": list(cluster.devices)}
    if len(sys.argv) > 1:
        model = cluster.load(sys.argv[1], placement="spread", dtype="float32")
        [answer] = model.generate(["the quick brown fox"], max_new_tokens=12)
        told = {"token_ids": list(answer.token_ids), "devices": [stage.device for stage in model.plan.stages]}
    print(json.dumps(told), flush=True)
"""


def test_a_script_has_the_devices_of_two_hosts(tmp_path: Path) -> None:
    """And a node that was let in comes again without a code."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    model = save_text_model(tmp_path / "model", intermediate=256)
    (tmp_path / "script.py").write_text(SCRIPT)
    for folder in ("laptop", "phone"):
        (tmp_path / folder).mkdir()
    with ExitStack() as ends:
        network = ends.enter_context(Namespaces(["laptop", "phone"]))
        endpoint = f"{network.address('laptop')}:{PORT}"

        def start(host: str, *arguments: str) -> Command:
            common = (sys.executable, "-m", "shardnet.launch", "--nnodes", "2", "--rdzv-endpoint", endpoint)
            command = Command(network.command(host, *common, *arguments), tmp_path / host)
            ends.callback(command.end)
            return command

        def end(first: Command, second: Command) -> dict[str, Any]:
            assert first.process.wait(150) == 0, first.said() + second.said()
            assert second.process.wait(60) == 0, second.said()
            told: dict[str, Any] = json.loads(first.lines()[-1])
            there = {name for name in told["devices"] if not name.startswith("device-")}
            assert len(told["devices"]) == 3 and {name.partition(":")[2] for name in there} == {"", "1"}
            return told

        script = str(tmp_path / "script.py")
        first = start("laptop", "--node-rank", "0", script, str(model))
        wait_until(lambda: "invite=" in first.said(), 60)
        code = first.said().split("invite=")[1].split()[0]
        second = start("phone", "--nproc-per-node", "2", "--rdzv-conf", f"invite={code}", script)
        assert end(first, second)["token_ids"] == token_ids_of(model)
        first = start("laptop", "--node-rank", "0", script)
        end(first, start("phone", "--nproc-per-node", "2", "--node-rank", "1", script))


def token_ids_of(model: Path) -> list[int]:
    """What one process says."""
    tokenizer, whole = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    prompt = tokenizer("the quick brown fox", return_tensors="pt")
    ids: list[int] = whole.generate(**prompt, max_new_tokens=12, do_sample=False)[0].tolist()
    return ids[prompt["input_ids"].shape[1] :]
