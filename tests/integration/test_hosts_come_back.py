"""A host that was away (suspended, killed, or under another address) is back within ten seconds, without a hand."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_of_hosts import PROMPT, START_S, Command, Hosts, hosts_of
from processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(580)]
NUM_TOKENS = 16
ASKED = ("--prompt", PROMPT, "--max-new-tokens", str(NUM_TOKENS), "--temperature", "0")
HALF_GIB = "0.002"
"""Room for more than half of the model, and not for all of it: without the phone there is no answer."""
BACK_S = 10.0


class Bed:
    """A laptop, and a phone that has joined it; each holds half of the model."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.expected = hosts.alone("laptop", NUM_TOKENS)["token_ids"]
        self.laptop = hosts.up("--memory-gib", HALF_GIB)
        self.phone = hosts.join("phone", self.laptop.first()["code"], "--memory-gib", HALF_GIB)
        self.phone.wait_for("holds")
        self.laptop.wait_for("loaded")
        self.answers()

    def answers(self) -> None:
        """The cluster answers as one process does."""
        assert self.hosts.ask("laptop", "generate", *ASKED)["token_ids"] == self.expected


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    with hosts_of(tmp_path, "laptop", "phone") as hosts:
        yield Bed(hosts)


def wait_for_another(command: Command, event: str, number: int) -> None:
    """Until it has told of so many events of a name."""
    told = lambda: [json.loads(line).get("event") for line in command.lines()]  # noqa: E731
    wait_until(lambda: told().count(event) >= number, START_S)


def test_a_host_that_was_away_for_a_moment_answers_again(bed: Bed) -> None:
    """Suspended, then with another address; the laptop, too, which the phone does not know under its new one."""
    network = bed.hosts.network
    network.suspend("phone")
    time.sleep(4.0)
    network.wake("phone")
    bed.answers()
    for number, host in enumerate(("phone", "laptop")):
        network.move(host, f"10.78.0.{100 + number}")
        bed.answers()
    events = {json.loads(line)["event"] for line in bed.phone.lines()}
    assert not events & {"struck off", "gone"}


def test_a_coordinator_that_was_killed_and_started_again_goes_on(bed: Bed) -> None:
    """Its process; then all that runs on its machine."""
    for number in (1, 2):
        pids = [bed.laptop.process.pid] if number == 1 else bed.hosts.network.processes("laptop")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        bed.laptop.process.wait()
        bed.laptop = bed.hosts.up("--memory-gib", HALF_GIB)
        bed.laptop.first()
        started_s = time.monotonic()
        wait_for_another(bed.phone, "back", number)
        assert time.monotonic() - started_s < BACK_S
        bed.answers()
    assert bed.phone.process.poll() is None


@pytest.mark.long
def test_a_machine_that_was_suspended_for_long_joins_anew(bed: Bed) -> None:
    """For longer than a link is kept: it was struck off."""
    network = bed.hosts.network
    network.suspend("phone")
    time.sleep(70.0)
    network.wake("phone")
    woken_s = time.monotonic()
    wait_for_another(bed.phone, "joined", 2)
    assert time.monotonic() - woken_s < BACK_S
    wait_for_another(bed.laptop, "loaded", 2)
    bed.answers()
    assert bed.phone.process.poll() is None
