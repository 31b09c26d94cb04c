"""A cluster over hosts (network namespaces) that is asked all the time: a laptop and a phone hold half of a small model
each, and a third host asks, one long answer after the other, and looks at each token.

    python tests/asked_hosts.py FOLDER

is the process that asks, with the state folder of its host.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import shardnet
from shardnet.progress import silent

sys.path.insert(0, str(Path(__file__).parent))
from cluster_of_hosts import Command, Hosts
from namespaces import Namespaces
from processes import wait_until
from tiny_text_model import save_text_model

PROMPT = list(range(40, 80))
NUM_TOKENS = 2900
CONTEXT = NUM_TOKENS + len(PROMPT)
NUM_MARGIN = 300
"""So many tokens are left in an answer that is in its midst."""
SEEDS = (1, 2)
HALF_GIB = "0.0088"
"""Room for half of the model and the longest answer."""
GIVE_UP_S = 150.0
MOST_ENDED = 10
BAD = {"lost", "left", "struck off", "failed"}


class Source:
    """A process on a host that asks, one answer after the other, and what it has got."""

    def __init__(self, hosts: Hosts, host: str, expected: dict[int, list[int]]) -> None:
        command = hosts.network.command(host, sys.executable, __file__, str(hosts.state(host)))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._expected = expected
        self.came_s: list[float] = []
        self.num_now = 0
        """Tokens of the present answer."""
        self.num_right = self.num_wrong = 0
        """Tokens of all."""
        self.ended: list[str] = []
        """Answers that did not come to their end, with why."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        seed = 0
        for line in self._process.stdout:
            told = json.loads(line)
            if "seed" in told:
                seed, self.num_now = told["seed"], 0
            elif "error" in told:
                self.ended.append(told["error"])
            else:
                is_right = self._expected[seed][self.num_now] == told["id"]
                self.num_right += is_right
                self.num_wrong += not is_right
                self.num_now += 1
                self.came_s.append(told["at_s"])

    def end(self) -> None:
        self._process.kill()


def be_source(folder: Path) -> None:
    """Ask on and on, and tell each token when it is there."""
    with shardnet.Cluster.connect(folder) as cluster:
        model = cluster.model
        while True:
            for seed in SEEDS:
                print(json.dumps({"seed": seed}), flush=True)
                try:
                    with model.stream(PROMPT, max_new_tokens=NUM_TOKENS, temperature=1.0, seed=seed) as stream:
                        for token in stream._session:
                            print(json.dumps({"id": token.token_id, "at_s": time.monotonic()}), flush=True)
                except shardnet.ShardnetError as error:
                    print(json.dumps({"error": str(error)}), flush=True)


def alone(model: Path) -> dict[int, list[int]]:
    """What one process answers."""
    with shardnet.Cluster.local(num_devices=1, threads_per_device=1, progress=silent) as cluster:
        loaded = cluster.load(str(model), dtype="float32", progress=silent)
        answers = {}
        for seed in SEEDS:
            stream = loaded.stream(PROMPT, max_new_tokens=NUM_TOKENS, temperature=1.0, seed=seed)
            list(stream)
            answers[seed] = stream.result.token_ids
    return answers


class AskedHosts:
    """The hosts, and who asks.

    Args:
        devices: hosts that join, each with room for half of the model.
        others: hosts that have no part in it.
    """

    def __init__(self, folder: Path, devices: tuple[str, ...], others: tuple[str, ...], ends: ExitStack) -> None:
        model = save_text_model(folder / "model", intermediate=4096, ends=False)
        expected = alone(model)
        self.network = ends.enter_context(Namespaces(["laptop", *devices, "desk", *others]))
        self.hosts = Hosts(folder, model, self.network, ends)
        self.laptop = self.hosts.up("--memory-gib", HALF_GIB, "--context", str(CONTEXT), "--no-rebalance")
        self.invited = self.laptop.first()
        """The invitation that was not used yet."""
        self.joined: list[Command] = []
        for host in devices:
            joining = self.hosts.join(host, self.invited["code"], "--memory-gib", HALF_GIB)
            joining.wait_for("joined")
            self.joined.append(joining)
            self.next_invitation()
        self.hosts.join("desk", self.invited["code"], "--source-only").wait_for("linked")
        self.laptop.wait_for("loaded")
        self.next_invitation()
        self.source = Source(self.hosts, "desk", expected)
        ends.callback(self.source.end)

    def next_invitation(self) -> None:
        """Wait for another one than the last, which is used up."""

        def others() -> list[dict[str, str]]:
            told = [json.loads(line) for line in self.laptop.lines()]
            return [each for each in told if each.get("event") == "invited" and each["qr"] != self.invited["qr"]]

        wait_until(others)
        self.invited = others()[-1]

    def wait_for_tokens(self, num_tokens: int) -> None:
        """Until so many more have come, and the present answer is in its midst."""
        source = self.source
        until = len(source.came_s) + num_tokens

        def have_come() -> bool:
            assert len(source.ended) <= MOST_ENDED, source.ended
            return len(source.came_s) >= until and 50 < source.num_now < NUM_TOKENS - NUM_MARGIN

        wait_until(have_come, GIVE_UP_S)

    def bad_events(self) -> list[str]:
        """What is not to happen."""
        told = [json.loads(line) for command in (self.laptop, *self.joined) for line in command.lines()]
        return [str(each.get("text", each["event"])) for each in told if each.get("event") in BAD]


if __name__ == "__main__":
    be_source(Path(sys.argv[1]))
