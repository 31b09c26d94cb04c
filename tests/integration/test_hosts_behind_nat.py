"""Hosts that nobody can dial, each behind a router of its own: they hold stages of one ring with a host that can be
dialled, and with each other. Namespaces, masquerade by nft."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster_of_hosts import PORT, PROMPT, Hosts, can_dial
from namespaces import INSIDE, Namespaces, why_no_routers, why_not
from tiny_text_model import save_text_model

pytestmark = [pytest.mark.root, pytest.mark.timeout(580)]
NUM_TOKENS = 24
THIRD_GIB = "0.002"
"""Room for two of the six blocks, and not for three."""


def test_two_phones_behind_two_routers_hold_stages_beside_each_other(tmp_path: Path) -> None:
    if (reason := why_not() or why_no_routers()) is not None:
        pytest.skip(reason)
    model = save_text_model(tmp_path / "model", num_blocks=6, intermediate=1024)
    with ExitStack() as ends:
        network = ends.enter_context(Namespaces(["laptop", "phone", "tablet"], behind_routers=["phone", "tablet"]))
        hosts = Hosts(tmp_path, model, network, ends)
        expected = hosts.alone("laptop", NUM_TOKENS)
        laptop = hosts.up("--memory-gib", THIRD_GIB)
        phone = hosts.join("phone", laptop.first()["code"], "--memory-gib", THIRD_GIB)
        phone.wait_for("joined")
        tablet = hosts.join("tablet", laptop.wait_for("invited")["code"], "--memory-gib", THIRD_GIB)
        for command in (phone, tablet):
            command.wait_for("holds")
        laptop.wait_for("loaded")
        ask = ("generate", "--prompt", PROMPT, "--max-new-tokens", str(NUM_TOKENS), "--temperature", "0")
        for host in ("laptop", "tablet"):
            answer = hosts.ask(host, *ask)
            assert answer["token_ids"] == expected["token_ids"]
            assert {stage["device"] for stage in answer["stages"]} == {"laptop", "phone", "tablet"}
        assert can_dial(hosts, "phone", network.address("laptop"), PORT)
        for dialler, other in (("laptop", "phone"), ("laptop", "tablet"), ("phone", "tablet"), ("tablet", "phone")):
            (port,) = hosts.addresses(other)
            assert not can_dial(hosts, dialler, network.address(other), port)
            assert not can_dial(hosts, dialler, INSIDE.format(2), port)
