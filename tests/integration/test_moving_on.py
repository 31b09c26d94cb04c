"""What becomes of a cluster of several hosts later: another machine takes the coordinator's place, and a network that
keeps devices apart is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cluster_of_hosts import PORT, PROMPT, Hosts, hosts_of
from processes import wait_until

from shardnet.trust.identity_files import identity_in

pytestmark = [pytest.mark.root, pytest.mark.timeout(290)]
NUM_TOKENS = 16
LOOK = """
import json, sys
from pathlib import Path
from shardnet.launch.doctor.network import dial_neighbours

print(json.dumps(dial_neighbours(Path(sys.argv[1]))))
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with hosts_of(tmp_path, "laptop", "phone", "desk") as running:
        yield running


def seen_from(hosts: Hosts, host: str) -> tuple[bool, dict[str, bool]]:
    """Whether the coordinator, and which hosts, can be dialled from one."""
    command = hosts.network.command(host, sys.executable, "-c", LOOK, str(hosts.state(host)))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    coordinator, others = json.loads(done.stdout)
    return coordinator, others


def test_another_machine_takes_the_coordinators_place_with_a_copy_of_its_folder(hosts: Hosts) -> None:
    expected = hosts.alone("desk", NUM_TOKENS)
    laptop = hosts.up()
    phone = hosts.join("phone", laptop.first()["code"])
    phone.wait_for("joined")
    [gate] = psutil.Process(phone.process.pid).children(recursive=True)
    assert "shardnet.gate.process" in gate.cmdline(), "a device and its gate, and nothing else"
    laptop.wait_for("loaded")
    laptop.end()
    phone.end()
    hosts.state("desk").parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", str(hosts.state("laptop")), str(hosts.state("desk"))], check=True)
    desk = hosts.start(
        *("desk", "up", "--model", str(hosts.model), "--name", "desk", "--state", str(hosts.state("desk")), "--json"),
        *("--dtype", "float32", "--listen", f"0.0.0.0:{PORT}"),
    )
    desk.wait_for("loaded")
    address = f"{hosts.network.address('desk')}:{PORT}"
    again = hosts.start("phone", "join", "--address", address, "--cluster", str(hosts.state("phone")), "--json")
    again.wait_for("joined")
    asked = ("--prompt", PROMPT, "--max-new-tokens", str(NUM_TOKENS), "--temperature", "0")
    assert hosts.ask("phone", "generate", *asked)["token_ids"] == expected["token_ids"]
    desk.wait_for("joined", device="phone")
    identity = identity_in(hosts.state("phone"))
    assert identity is not None and str(identity.gates[0]) == address, "it is dialled from now on"


def test_a_network_that_keeps_devices_apart_is_found(hosts: Hosts) -> None:
    laptop = hosts.up("--no-device")
    phone = hosts.join("phone", laptop.first()["code"], "--source-only")
    phone.wait_for("linked")
    desk = hosts.join("desk", laptop.wait_for("invited")["code"], "--source-only")
    desk.wait_for("linked")
    wait_until(lambda: seen_from(hosts, "phone") == (True, {"desk": True}))
    apart = ("ip", "route", "add", "unreachable", hosts.network.address("desk"))
    subprocess.run(hosts.network.command("phone", *apart), check=True)
    assert seen_from(hosts, "phone") == (True, {"desk": False})
