"""What the loss of devices costs: whether every text stays as it is, and how long the gap in it is.

    python tests/bench/bench_recovery.py [--runs 50,30,20,20,20,20,20] [--tokens 200] [--seed 0] [--only kill,freeze]
        [--standby warm --settle-s 13] [--late]

Plays scripts on the test bed (`tests/testbed/`), devices at full speed, the embedded model, greedy in float32. What
happens is drawn at random: when, of which every fifth time within the prompt, and to whom, every stage in turn. Told
apart: *detection*, from the event until it is known, and *repair*, from knowing of the last one until the next token.
Links are cut with root only. Prints a table, and to standard error how each run went; exit code 1 where a text
differs or an answer does not end.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from shardnet.simulator import Event, Script
from shardnet.simulator.script import COORDINATOR, ScriptConversation, ScriptDevice

sys.path.insert(0, str(Path(__file__).parents[1]))
from testbed.bed import enter_own_network, in_own_network, why_not
from testbed.outcome import Outcome
from testbed.play import Played, play
from testbed.report import as_table, verdict

FROZEN_S = 20.0
SOURCE_S = 5.0
NUM_UNITS = 32
PROMPTS = 5
"""Every so many-th run is struck within the prompt."""
LAST = 0.95
"""At that share of an answer's time at the latest."""
LATE = 0.8, 0.9
"""Between these shares of its tokens, where it is to come late."""
SECOND_S = 0.4
"""A second loss comes within so many seconds of the first."""

Draw = Callable[[random.Random, list[str], int, float], list[Event]]
"""What happens in a run: by the generator, the devices, the run's number, and when it is to begin."""


@dataclass
class Found:
    """What came out of the runs of one kind."""

    num_runs: int = 0
    num_wrong: int = 0
    num_missed: int = 0
    """Runs in which nothing was known to have happened: it came too late, or was over before it was noticed."""
    detections_s: list[float] = field(default_factory=list)
    repairs_s: list[float] = field(default_factory=list)

    def add(self, played: Played) -> None:
        self.num_runs += 1
        self.num_wrong += not played.is_right
        known = [each for each in played.outcome.felt if each.known_s is not None]
        strikes = [each for each in known if each.event.split()[1] not in ("thaw", "mend")]
        self.num_missed += not strikes
        self.detections_s += [each.known_s for each in strikes[:1] if each.known_s is not None]
        self.repairs_s += [each.token_s for each in strikes[-1:] if each.token_s is not None]


@dataclass(frozen=True)
class Kind:
    """A kind of loss."""

    num_devices: int
    num_conversations: int
    draw: Draw
    needs_links: bool = False


def killed(draw: random.Random, names: list[str], number: int, at_s: float) -> list[Event]:
    return [Event(at_s, "kill", names[number % len(names)])]


def frozen(draw: random.Random, names: list[str], number: int, at_s: float) -> list[Event]:
    name = names[number % len(names)]
    return [Event(at_s, "freeze", name), Event(at_s + FROZEN_S, "thaw", name)]


def cut(draw: random.Random, names: list[str], number: int, at_s: float) -> list[Event]:
    here = number % len(names)
    return [Event(at_s, "cut", names[here], names[(here + 1) % len(names)], both_ways=True)]


def source(draw: random.Random, names: list[str], number: int, at_s: float) -> list[Event]:
    """All links of the coordinator, for a while."""
    twice = ((at_s, "cut"), (at_s + SOURCE_S, "mend"))
    return [Event(time_s, kind, COORDINATOR, name, both_ways=True) for time_s, kind in twice for name in names]


def pair(draw: random.Random, names: list[str], number: int, at_s: float) -> list[Event]:
    return [Event(at_s, "kill", name) for name in draw.sample(names, 2)]


def second(draw: random.Random, names: list[str], number: int, at_s: float) -> list[Event]:
    first, other = draw.sample(names, 2)
    return [Event(at_s, "kill", first), Event(at_s + draw.uniform(0, SECOND_S), "kill", other)]


KINDS = {
    "kill": Kind(3, 1, killed),
    "freeze": Kind(3, 1, frozen),
    "cut": Kind(3, 1, cut, needs_links=True),
    "source": Kind(3, 1, source, needs_links=True),
    "pair": Kind(4, 1, pair),
    "second": Kind(4, 1, second),
    "sessions": Kind(3, 4, killed),
}


def calm_script(kind: Kind, options: argparse.Namespace) -> Script:
    """Devices at full speed, of which nothing happens to any; every other conversation is sampled."""
    share, rest = divmod(NUM_UNITS, kind.num_devices)
    devices = [
        ScriptDevice(name, units=share + (index < rest)) for index, name in enumerate("abcd"[: kind.num_devices])
    ]
    greedy = ScriptConversation(options.tokens)
    sampled = ScriptConversation(options.tokens, temperature=0.9, top_k=40, repetition_penalty=1.1, seed=5)
    conversations = [sampled if index % 2 else greedy for index in range(kind.num_conversations)]
    return Script("recovery", tuple(devices), tuple(conversations), standby=options.standby, settle_s=options.settle_s)


def strike(
    kind: Kind, calm: Script, undisturbed: Outcome, number: int, draw: random.Random, *, is_late: bool = False
) -> Script:
    """The same with something that happens."""
    if is_late:
        token = round(draw.uniform(*LATE) * calm.conversations[0].tokens)
        events = kind.draw(draw, calm.names, number, 0.0)
        return replace(calm, events=tuple(replace(event, at_s=None, token=token) for event in events))
    at_s = draw.uniform(0, undisturbed.begin_s if number % PROMPTS == 0 else LAST * undisturbed.end_s)
    return replace(calm, events=tuple(kind.draw(draw, calm.names, number, round(at_s, 3))))


def run_kind(kind: Kind, num_runs: int, options: argparse.Namespace, draw: random.Random) -> Found:
    calm, found = calm_script(kind, options), Found()
    undisturbed = play(calm)
    if undisturbed.errors or not undisturbed.is_right:
        raise SystemExit(f"an undisturbed run went wrong: {verdict(undisturbed)}")
    for number in range(num_runs):
        script = strike(kind, calm, undisturbed.outcome, number, draw, is_late=options.late)
        played = play(script, expected=undisturbed.ids)
        found.add(played)
        told = as_table(played.outcome, None) if not played.is_right else "; ".join(map(str, script.events))
        print(f"{number + 1} of {num_runs}: {verdict(played)} {told}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="50,30,20,20,20,20,20", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--standby", default="cold", choices=("cold", "warm", "hot"))
    parser.add_argument("--settle-s", type=float, default=0.0, help="before the prompts; 13 with warm")
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument(
        "--late", action="store_true", help="kill only near the end of an answer: its length tells then"
    )
    options = parser.parse_args()
    has_links = why_not() is None
    if has_links and not in_own_network():
        return enter_own_network()
    print("| loss | runs | wrong texts | not noticed | detection, s: median, worst | repair, s: median, worst |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    num_wrong = 0
    for (name, kind), num_runs in zip(KINDS.items(), map(int, options.runs.split(",")), strict=True):
        if name not in options.only.split(",") or (kind.needs_links and not has_links):
            continue
        found = run_kind(kind, num_runs, options, random.Random(f"{options.seed} {name}"))
        num_wrong += found.num_wrong
        gaps = f"{shown(found.detections_s)} | {shown(found.repairs_s)}"
        print(f"| {name} | {found.num_runs} | {found.num_wrong} | {found.num_missed} | {gaps} |", flush=True)
    return int(num_wrong > 0)


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f}, {max(seconds):.3f}" if seconds else "-"


if __name__ == "__main__":
    sys.exit(main())
