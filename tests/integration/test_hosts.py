"""A cluster over several hosts, from the command line: each is a network namespace with files of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cluster_of_hosts import PORT, PROMPT, START_S, Hosts, holders, hosts_of
from processes import wait_until
from shard_chain import Chain

from shardnet.loader import load_shard, open_model

pytestmark = [pytest.mark.root, pytest.mark.timeout(580)]
NUM_LONG = 400
LONG = ("--prompt", PROMPT, "--max-new-tokens", str(NUM_LONG), "--temperature", "0")
NUM_PROMPT, ROW_BYTES, RUN_BYTES = len(PROMPT), 256, 16
HALF_GIB = "0.002"
"""Room for more than half of the model, and not for all of it."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with hosts_of(tmp_path, "laptop", "phone", "desk") as running:
        yield running


def test_three_hosts_answer_as_one_and_nothing_can_be_read_between_them(hosts: Hosts) -> None:
    expected = hosts.alone("desk", 24)
    hidden = runs_of_hidden_states(hosts.model)
    capture, within = hosts.network.capture(), hosts.network.capture_within("phone")
    laptop = hosts.up("--memory-gib", HALF_GIB)
    phone = hosts.join("phone", laptop.first()["code"], "--memory-gib", HALF_GIB)
    phone.wait_for("joined")
    code = laptop.wait_for("invited")["code"]
    hosts.join("desk", code, "--source-only").wait_for("linked")
    hosts.ask("desk", "status")
    wait_until(lambda: {"laptop", "phone"} <= holders(hosts.ask("desk", "status")), START_S)
    ask = ("generate", "--prompt", PROMPT, "--max-new-tokens", "24", "--temperature", "0")
    for host in ("desk", "phone", "laptop"):
        answer = hosts.ask(host, *ask)
        assert answer["token_ids"] == expected["token_ids"]
        assert {stage["device"] for stage in answer["stages"]} == {"laptop", "phone"}
    trusted = {each["name"]: each["is_linked"] for each in hosts.ask("phone", "trust")}
    assert trusted == {"coordinator": False, "phone": True, "desk": True}
    assert open_ports(hosts, "desk", "laptop") == [PORT]
    (at_phone,) = hosts.addresses("phone")
    assert open_ports(hosts, "desk", "phone") == [at_phone]
    seen, seen_within = capture.close(), within.close()
    assert len(seen) > 50_000
    for secret in (PROMPT, expected["text"], "token_ids", "start_session", str(hosts.model)):
        assert secret.encode() not in seen
    # What is carried between a gate and the device beside it is open, and holds what goes over the wire closed.
    assert len(runs_in(seen_within, hidden)) > NUM_PROMPT * ROW_BYTES // 2
    assert not runs_in(seen, hidden)


def test_a_network_that_blinks_in_the_midst_of_an_answer_changes_no_token(hosts: Hosts) -> None:
    """Also where the phone comes back under another address."""
    expected = hosts.alone("desk", NUM_LONG)
    laptop = hosts.up("--memory-gib", HALF_GIB)
    phone = hosts.join("phone", laptop.first()["code"], "--memory-gib", HALF_GIB)
    phone.wait_for("holds")
    laptop.wait_for("loaded")
    asking = hosts.start("laptop", "generate", *LONG, "--cluster", str(hosts.state("laptop")), "--json")
    laptop.wait_for("session began")
    for number, seconds in enumerate((0.3, 5.0, 1.0)):
        assert asking.process.poll() is None, "it should still be answering"
        hosts.network.unplug("phone")
        time.sleep(seconds)
        if number == 1:
            hosts.network.move("phone", "10.78.0.99")
        hosts.network.plug_in_again("phone")
        time.sleep(1.0)
    assert asking.process.wait(START_S) == 0, asking.said()
    assert json.loads(asking.lines()[-1])["token_ids"] == expected["token_ids"]
    told = [json.loads(line)["event"] for line in laptop.lines()[1:]]
    assert "lost" not in told and "left" not in told
    assert phone.process.poll() is None


def runs_of_hidden_states(model: Path) -> set[bytes]:
    """Of each token of the prompt, behind each unit but the last: one of them is where the ring is cut."""
    files = open_model(str(model), "float32")
    ids = torch.tensor(files.tokenizer()(PROMPT)["input_ids"])
    assert len(ids) == NUM_PROMPT
    runs: set[bytes] = set()
    for last in range(files.config.num_hidden_layers + 1):
        shard = load_shard(files.config, files.tensors_of(0, last), 0, last, "float32")
        rows = Chain([shard], capacity=2 * NUM_PROMPT).step({0: ids})
        for row in rows:
            content = row.numpy().tobytes()
            assert len(content) == ROW_BYTES
            runs |= {content[at : at + RUN_BYTES] for at in range(ROW_BYTES - RUN_BYTES + 1)}
    return runs


def runs_in(seen: bytes, wanted: set[bytes]) -> set[bytes]:
    """Those of the wanted runs that were seen anywhere."""
    windows = (seen[at : at + RUN_BYTES] for at in range(len(seen) - RUN_BYTES + 1))
    return {each for each in windows if each in wanted}


def open_ports(hosts: Hosts, scanner: str, host: str) -> list[int]:
    """All ports of a host that another one can connect to."""
    program = (
        "import socket, sys\n"
        "found = []\n"
        "for port in range(1, 65536):\n"
        "    with socket.socket() as probe:\n"
        "        probe.settimeout(2)\n"
        "        if probe.connect_ex((sys.argv[1], port)) == 0: found.append(port)\n"
        "print(found)\n"
    )
    command = hosts.network.command(scanner, sys.executable, "-c", program, hosts.network.address(host))
    found: list[int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found
