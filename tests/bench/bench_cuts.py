"""What cuts of the network do to an answer: whether each token stays as it is, and how soon the next one comes.

    python tests/bench/bench_cuts.py [--cuts 200] [--seed 0] [--spare] [--json]

Needs root: each host is a network namespace. The laptop coordinates, and holds half of a small model; the phone, which
has joined it by a code, holds the other half; a third host asks, one answer after the other. Then the network is cut,
in mid-answer, for 0.2 to 20 s (a quarter of the cuts: 5 s): the phone, the laptop or both are unplugged, or silenced,
which their own interfaces do not see; half of the cuts end under another address. Where both are cut, one of them
moves: where both did, nobody could find the other. With `--spare` a tablet has room to take over.

Measured from when the link is back until the next token is at the source. Where one comes before that, because others
took over, it says so. Prints a table; exit code 1 where a token is wrong, an answer ends, a member is lost, or a token
comes later than a second after a cut of 5 s or more that nobody took over.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from asked_hosts import GIVE_UP_S, AskedHosts
from namespaces import ADDRESS, why_not
from processes import wait_until

SHORTEST_S, LONGEST_S, OFTEN_S = 0.2, 20.0, 5.0
LATEST_S = 1.0
"""After a cut of `OFTEN_S` or more."""


class Cut(NamedTuple):
    """Of the network."""

    hosts: tuple[str, ...]
    seconds: float
    is_silent: bool
    moves: str
    """The host that has another address afterwards; empty where none has."""

    @property
    def kind(self) -> str:
        who = " and ".join(self.hosts)
        return f"{who}, {'silent' if self.is_silent else 'unplugged'}{', new address' if self.moves else ''}"


def draw(chance: random.Random, cut_off: Sequence[str]) -> Cut:
    """A cut of some of these hosts."""
    hosts = tuple(cut_off) if chance.random() < 0.2 else (chance.choice(cut_off),)
    seconds = OFTEN_S if chance.random() < 0.25 else math.exp(chance.uniform(math.log(SHORTEST_S), math.log(LONGEST_S)))
    moves = chance.choice(hosts) if chance.random() < 0.5 else ""
    return Cut(hosts, seconds, not moves and chance.random() < 0.5, moves)


class After(NamedTuple):
    """What became of an answer."""

    cut: Cut
    late_s: float
    """From the return of the link until the next token."""
    repaired_s: float | None
    """From the cut until the next token, where it came before the link was back."""

    @property
    def is_in_time(self) -> bool:
        return self.cut.seconds < OFTEN_S or self.repaired_s is not None or self.late_s <= LATEST_S


class Bed(AskedHosts):
    """Hosts that can be cut off, of which there is a spare one or not."""

    def __init__(self, folder: Path, *, spare: bool, ends: ExitStack) -> None:
        super().__init__(folder, ("phone", "tablet") if spare else ("phone",), (), ends)
        self.cut_off = self.network.names[:-1]
        self._num_addresses = len(self.network.names)

    def make(self, cut: Cut) -> After:
        network, source = self.network, self.source
        began_s = time.monotonic()
        for host in cut.hosts:
            network.silence(host) if cut.is_silent else network.unplug(host)
        time.sleep(max(0.0, began_s + cut.seconds - time.monotonic()))
        if cut.moves:
            self._num_addresses += 1
            network.move(cut.moves, ADDRESS.format(1 + self._num_addresses % 250))
        for host in cut.hosts:
            network.let_through_again(host) if cut.is_silent else network.plug_in_again(host)
        back_s = time.monotonic()
        wait_until(lambda: source.came_s[-1] > back_s, GIVE_UP_S)
        times = list(source.came_s)
        first = next(number for number, at_s in enumerate(times) if at_s > back_s)
        last = next(number for number in range(first, -1, -1) if times[number] <= began_s)
        gap_ends_s = max(zip(times[last:first], times[last + 1 : first + 1]), key=lambda gap: gap[1] - gap[0])[1]
        if gap_ends_s < back_s:
            return After(cut, 0.0, gap_ends_s - began_s)
        return After(cut, gap_ends_s - back_s, None)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def row(name: str, those: Sequence[After]) -> str:
    """Of a table."""
    late_s = [each.late_s for each in those if each.repaired_s is None]
    repaired_s = [each.repaired_s for each in those if each.repaired_s is not None]
    late = "- | - | -"
    if late_s:
        late = f"{statistics.median(late_s):.2f} | {percentile(late_s, 0.9):.2f} | {max(late_s):.2f}"
    repaired = f"{len(repaired_s)} ({statistics.median(repaired_s):.2f})" if repaired_s else "-"
    return f"| {name} | {len(those)} | {late} | {repaired} |"


def table(made: Sequence[After]) -> str:
    """How late tokens were, by kinds of cuts."""
    kinds: defaultdict[str, list[After]] = defaultdict(list)
    for each in made:
        kinds[each.cut.kind].append(each)
        kinds["all below 5 s" if each.cut.seconds < OFTEN_S else "all of 5 s and more"].append(each)
    lines = [
        "| cut | number | next token after the return, s: median | 90% | most | before it (median after the cut, s) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *(row(kind, kinds[kind]) for kind in sorted(kinds))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spare", action="store_true", help="a third device has room to take over")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for logs and states, instead of a temporary one")
    asked = parser.parse_args()
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 2
    chance = random.Random(asked.seed)
    made: list[After] = []
    with ExitStack() as ends:
        folder = asked.keep or Path(ends.enter_context(tempfile.TemporaryDirectory()))
        bed = Bed(folder, spare=asked.spare, ends=ends)
        for number in range(asked.cuts):
            bed.wait_for_tokens(chance.randrange(20, 200))
            cut = draw(chance, bed.cut_off)
            after = bed.make(cut)
            made.append(after)
            then = f"{after.late_s:.2f} s after the return"
            if after.repaired_s is not None:
                then = f"{after.repaired_s:.2f} s after the cut"
            late = "" if after.is_in_time else "  LATE"
            at = time.strftime("%H:%M:%S")
            print(f"{at} {number + 1}/{asked.cuts}: {cut.kind}, {cut.seconds:.1f} s: {then}{late}", file=sys.stderr)
        bed.wait_for_tokens(100)
        bad, source = bed.bad_events(), bed.source
        wrong, ended = source.num_wrong, source.ended
        num_late = sum(not each.is_in_time for each in made)
    if asked.json:
        told: dict[str, Any] = {"cuts": [each.cut._asdict() | each._asdict() | {"cut": each.cut.kind} for each in made]}
        print(json.dumps(told | {"wrong": wrong, "right": source.num_right, "ended": ended, "events": bad}))
    else:
        print(table(made))
        print(
            f"\n{source.num_right} tokens right, {wrong} wrong; {len(ended)} answers ended; {num_late} cuts with late"
        )
        print("\n".join([*ended, *bad]))
    return 1 if wrong or ended or bad or num_late else 0


if __name__ == "__main__":
    sys.exit(main())
