"""What strangers at the port of a gate do to an answer: how much slower it is while they come, and whether one gets in.

    python tests/bench/bench_hostile.py [--attempts 2000] [--per-second 20] [--turns 10] [--seed 0] [--shared-cores]

Needs root: each host is a network namespace. A laptop coordinates, and holds half of a small model; a phone holds the
other half; a third host asks, one answer after the other. From a fourth one strangers come, in all the ways of
tests/strangers.py, while 100 connections that say nothing are held open; in alternating turns with quiet ones of the
same length. What strangers compute stands for other machines, and takes several times what it costs the gate. So they
have a core of this machine, and all hosts of the cluster have the others, in both kinds of turns: what is slower is
what the cluster suffers. With --shared-cores all share all cores, and strangers' own computing is in the figure.

Prints tokens per second of both kinds of turns, what each took of processors, and what the gate has logged; exit code 1
where an answer is slower by more than 10% in the median, a token is wrong, an answer ends, a member is lost, somebody
gets in, or not each attempt is logged. Who comes too soon after others is counted in the log, and not looked at; the
rest is logged with what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from cryptography import x509

from shardnet.coordinator.own_gate import NOTE
from shardnet.gate.asking import enrol
from shardnet.process.identity import number_of
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.admission import CERTIFICATE, KEY, admission_in
from shardnet.trust.authority import LIFE_S, Authority, request_for
from shardnet.trust.identity import Identity
from shardnet.trust.identity_files import host_key, identity_in, keep_identity
from shardnet.trust.keys import key_in
from shardnet.trust.payload import parse_payload

sys.path.insert(0, str(Path(__file__).parents[1]))
from asked_hosts import AskedHosts
from cluster_of_hosts import PORT
from namespaces import why_not
from strangers import SENT_AWAY, WAYS, Target, num_logged

NUM_IDLE = 100
MOST_SLOWER = 0.10
LOGGED_S = 15.0
"""After which the last ones were logged, and those that said nothing were sent away."""


def target_in(folder: Path, address: Address, qr: str, phone: Path, trust: Path) -> Target:
    """What strangers have: written down in a folder, on their host."""
    used = parse_payload(qr)
    stolen = enrol(folder / "stolen", used, "stolen", [address])
    phones = identity_in(phone)
    key = key_in(trust / KEY)
    assert phones is not None and key is not None
    authority = Authority(key, x509.load_pem_x509_certificate((trust / CERTIFICATE).read_bytes()))
    foreign = admission_in(StateFolder(folder / "foreign"), time.time()).authority
    return Target(
        address,
        foreign=_member(folder / "stranger", foreign, "phone", time.time()),
        expired=_member(folder / "expired", authority, "expired", time.time() - 2 * LIFE_S),
        stolen=stolen,
        member=phones,
        used=used,
    )


def _member(folder: Path, authority: Authority, name: str, now_s: float) -> Identity:
    state = StateFolder(folder)
    certificate = authority.issue(request_for(host_key(state)), name, now_s)
    return keep_identity(state, certificate, authority.certificate, ())


def cores() -> tuple[set[int], set[int]]:
    """Those of the cluster, and that of the strangers."""
    *clusters, strangers = sorted(os.sched_getaffinity(0))
    return set(clusters), {strangers}


async def attack(target: Target, seed: int) -> None:
    """Come so many times and so often as each line of standard input says, and say so when all have come."""
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        idle = [await target.connect() for _ in range(asked["idle"])]
        ways = [list(WAYS)[number % len(WAYS)] for number in range(asked["from"], asked["to"])]
        dice.shuffle(ways)
        coming = []
        for way in ways:
            coming.append(asyncio.ensure_future(way(target, dice)))
            await asyncio.sleep(1 / asked["per_second"])
        ended = await asyncio.gather(*coming, return_exceptions=True)
        failed = [each for each in ended if each is not None and not isinstance(each, OSError)]  # OSError: sent away
        for _, writer in idle:
            writer.transport.abort()
        print(json.dumps({"got in or failed": [repr(each) for each in failed]}), flush=True)


class Strangers:
    """A process on a host of theirs.

    Args:
        on_cores: where it runs; empty for anywhere.
    """

    def __init__(self, bed: AskedHosts, folder: Path, seed: int, on_cores: set[int]) -> None:
        where = {
            "folder": str(folder),
            "address": bed.network.address("laptop"),
            "qr": bed.invited["qr"],
            "phone": str(bed.hosts.state("phone")),
            "trust": str(bed.hosts.state("laptop") / "trust"),
            "seed": seed,
            "cores": sorted(on_cores),
        }
        command = bed.network.command("alley", sys.executable, __file__, "--strangers", json.dumps(where))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.number = self._process.pid
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"

    def come(self, first: int, behind: int, per_second: float) -> list[str]:
        """Those numbers of attempts; returns what should not have happened."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"from": first, "to": behind, "per_second": per_second, "idle": NUM_IDLE}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        failed: list[str] = json.loads(self._process.stdout.readline())["got in or failed"]
        return failed

    def end(self) -> None:
        self._process.kill()


def used_s(number: int) -> float:
    """The processor time that a process has used, and all that live which it has begun, and so on."""
    used = 0.0
    first = psutil.Process(number)
    for each in (first, *first.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            times = each.cpu_times()
            used += times.user + times.system
    return used


class Turn(NamedTuple):
    took_s: float
    tokens_per_s: float
    cluster_token_s: float
    """The processor time that all processes of the cluster have used for each token."""
    gate_busy: float
    """The share of a core that the gate of the laptop has used."""


class Turns:
    """Of one kind.

    Args:
        gate, strangers: the numbers of these processes.
    """

    def __init__(self, bed: AskedHosts, gate: int, strangers: int) -> None:
        self._bed = bed
        self._gate = gate
        self._strangers = strangers
        self.had: list[Turn] = []

    @contextmanager
    def another(self) -> Iterator[None]:
        """What happens in the block is one."""
        began_s, before_s, gate_before_s = time.monotonic(), self._used_s(), used_s(self._gate)
        yield
        ended_s = time.monotonic()
        took_s = ended_s - began_s
        num_tokens = sum(began_s < at_s <= ended_s for at_s in self._bed.source.came_s)
        token_s = (self._used_s() - before_s) / num_tokens
        self.had.append(Turn(took_s, num_tokens / took_s, token_s, (used_s(self._gate) - gate_before_s) / took_s))

    def _used_s(self) -> float:
        return used_s(os.getpid()) - used_s(self._strangers)

    def median(self, field: str) -> float:
        return statistics.median(getattr(each, field) for each in self.had)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=2000)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared-cores", action="store_true")
    parser.add_argument("--strangers", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.strangers is not None:
        where = json.loads(asked.strangers)
        if where["cores"]:
            os.sched_setaffinity(0, where["cores"])
        address = Address(where["address"], PORT)
        paths = [Path(where[each]) for each in ("folder", "phone", "trust")]
        target = target_in(paths[0], address, where["qr"], paths[1], paths[2])
        print("ready", flush=True)
        asyncio.run(attack(target, where["seed"]))
        return 0
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 2
    of_cluster, of_strangers = (set(), set()) if asked.shared_cores else cores()
    if not asked.shared_cores:
        if not of_cluster:
            print("Strangers need a core of their own. There is one in all: --shared-cores.", file=sys.stderr)
            return 2
        os.sched_setaffinity(0, of_cluster)
    with ExitStack() as ends:
        print(f"the cluster starts, on {len(of_cluster) or os.cpu_count()} cores", file=sys.stderr)
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        bed = AskedHosts(folder, ("phone",), ("alley",), ends)
        strangers = Strangers(bed, folder / "alley", asked.seed, of_strangers)
        ends.callback(strangers.end)
        bed.hosts.ask("laptop", "trust", "--revoke", "stolen")
        bed.wait_for_tokens(500)
        log = bed.hosts.state("laptop") / "gate.log"
        before = len(log.read_text().splitlines())
        failed: list[str] = []
        gate = number_of(json.loads((bed.hosts.state("laptop") / NOTE).read_text())["process"])
        assert gate is not None
        quiet, hostile = (Turns(bed, gate, strangers.number) for _ in range(2))
        for number in range(asked.turns):
            first, behind = (asked.attempts * each // asked.turns for each in (number, number + 1))
            with quiet.another():
                time.sleep((behind - first) / asked.per_second)
            with hostile.another():
                failed += strangers.come(first, behind, asked.per_second)
            print(
                f"turn {number + 1} of {asked.turns}: {quiet.had[-1].tokens_per_s:.1f} tokens/s, then "
                f"{hostile.had[-1].tokens_per_s:.1f} among {behind - first + NUM_IDLE} strangers in "
                f"{hostile.had[-1].took_s:.0f} s",
                file=sys.stderr,
            )
        time.sleep(LOGGED_S)
        said = log.read_text().splitlines()[before:]
        wrong, ended, bad = bed.source.num_wrong, bed.source.ended, bed.bad_events()
        members = {each["name"] for each in bed.hosts.ask("laptop", "trust")}
    rates = [kind.median("tokens_per_s") for kind in (quiet, hostile)]
    slower = 1 - rates[1] / rates[0]
    due = Counter(list(WAYS.values())[number % len(WAYS)] for number in range(asked.attempts))
    lacking = {what: count - sum(what in line for line in said) for what, count in due.items()}
    num_unseen = num_logged(line for line in said if SENT_AWAY.search(line))
    is_lacking = sum(max(0, count) for count in lacking.values()) > num_unseen
    num_all = asked.attempts + NUM_IDLE * asked.turns
    print("| quiet, tokens/s | among strangers | slower by | attempts | logged | of these unseen |")
    print("|--:|--:|--:|--:|--:|--:|")
    print(f"| {rates[0]:.1f} | {rates[1]:.1f} | {slower:.1%} | {num_all} | {num_logged(said)} | {num_unseen} |")
    token_ms = [1000 * kind.median("cluster_token_s") for kind in (quiet, hostile)]
    print(
        f"\na token took {token_ms[0]:.2f} ms of processors in the cluster, among strangers {token_ms[1]:.2f}; ", end=""
    )
    print(f"its gate {quiet.median('gate_busy'):.1%} of a core, among strangers {hostile.median('gate_busy'):.1%}")
    print(f"{bed.source.num_right} tokens right, {wrong} wrong; members: {', '.join(sorted(members))}")
    print("\n".join([*failed, *ended, *bad]))
    if is_lacking:
        print("not logged often enough:", *(what for what, count in lacking.items() if count > 0), sep="\n")
    is_well = slower <= MOST_SLOWER and members == {"coordinator", "phone", "desk"} and num_logged(said) == num_all
    return 0 if is_well and not (failed or wrong or ended or bad or is_lacking) else 1


if __name__ == "__main__":
    sys.exit(main())
