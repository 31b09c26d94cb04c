"""What it gains that layers move away from a device that became slow, and what the move costs.

    python tests/bench/bench_balancing.py [--turns 2] [--only third,phones] [--seed 0] [--loopback] [--write]
    python tests/bench/bench_balancing.py --noise [--seconds 60]

On the test bed (`tests/testbed/`), the embedded model, greedy in float32; behind emulated links with root. In each turn
three runs, one after the other: layers may move; they may not; and the model is loaded with the device slow from the
start, which is the planner's optimum for what is then. The device that has most units becomes slow in mid-generation:

    third     three alike devices, of which one is cut to a third of its speed
    phones    LinguaLinked's set-up (arXiv:2312.00388): two fast phones and a slow one in one wireless network, of which
              one becomes half as fast; static against balanced

Told: seconds until another plan is in force; how much longer than usual the longest gap between two tokens is while the
change is under way, and how long a token takes then; tokens per second after it against the other two runs. `--noise`:
all devices are faster or slower by up to 10%, anew four times a second, and moves are counted: there should be none.

Exit code 1 where a text differs or an answer does not end. Takes some 8 minutes; `--write` makes a page of it in
docs/benchmarks/, for figures of an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from shardnet.plan import Plan
from shardnet.progress import silent
from shardnet.simulator import Event, Script
from shardnet.simulator.script import ScriptConversation, ScriptDevice, ScriptLink

sys.path.insert(0, str(Path(__file__).parents[1]))
from testbed.bed import Bed, enter_own_network, in_own_network, why_not
from testbed.play import Played, play
from testbed.report import verdict

REPORTS = Path(__file__).parents[2] / "docs/benchmarks"
REVISED_S = 5.0
STALL_S = 0.02
"""What a switch may cost beside the time of a token."""
OF_OPTIMUM = 0.9
NOISE = 0.1
NOISE_EVERY_S = 0.25
SETTLE_S = 14.0
"""After a load: what moves may be kept ready by then."""


@dataclass(frozen=True)
class Case:
    """A set-up."""

    script: Script
    factor: float
    """So many times as slow the device becomes."""
    gain: float
    """Over the run in which nothing moves; what is asked for."""


DEVICES = tuple(ScriptDevice(name, slowdown=2, memory_gib=0.6) for name in "abc")
PHONES = (
    ScriptDevice("high-1", slowdown=2, memory_gib=0.6),
    ScriptDevice("high-2", slowdown=2, memory_gib=0.6),
    ScriptDevice("low", slowdown=4, memory_gib=0.6),
)
TOKENS = 160
STRIKE_AT = 30
CASES = {
    "third": Case(
        Script(
            "balancing: a third",
            DEVICES,
            (ScriptConversation(TOKENS, "Once upon a time"),),
            (ScriptLink("all", "all", mbit_per_s=100, latency_ms=2),),
        ),
        3.0,
        1.5,
    ),
    "phones": Case(
        Script(
            "balancing: phones",
            PHONES,
            (ScriptConversation(TOKENS, "Once upon a time"),),
            (ScriptLink("all", "all", mbit_per_s=60, latency_ms=3),),
        ),
        2.0,
        1.3,
    ),
}


@dataclass
class Turn:
    """What came out of three runs. Rates in tokens per second; None where there was nothing to tell."""

    slowed: str
    revised_s: float | None
    stall_s: float | None
    token_s: float | None
    """Between two tokens before the change, the device slow already."""
    moved_per_s: float | None
    still_per_s: float | None
    fresh_per_s: float | None
    what_moved: str

    @property
    def gain(self) -> float | None:
        return _share(self.moved_per_s, self.still_per_s)

    @property
    def of_fresh(self) -> float | None:
        return _share(self.moved_per_s, self.fresh_per_s)


@dataclass
class Found:
    """Of one set-up."""

    turns: list[Turn] = field(default_factory=list)
    num_wrong: int = 0
    """Texts that differ, or that did not end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=2, help="of each set-up")
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--noise", action="store_true", help="nothing but noise, and moves are counted")
    parser.add_argument("--seconds", type=float, default=60.0, help="of noise")
    parser.add_argument("--loopback", action="store_true", help="emulate no links, as without root")
    parser.add_argument("--write", action="store_true", help="write the page in docs/benchmarks/")
    options = parser.parse_args()
    if not options.loopback and why_not() is None and not in_own_network():
        return enter_own_network()
    with tempfile.TemporaryDirectory(prefix="shardnet-balancing-") as cache:
        if options.noise:
            return noise(options, Path(cache))
        cases = {name: CASES[name] for name in options.only.split(",")}
        found = {name: run_case(case, options.turns, Path(cache)) for name, case in cases.items()}
    page = as_page(cases, found, options.turns)
    print(page)
    if options.write:
        (REPORTS / f"balancing_{datetime.date.today()}.md").write_text(page)
    return int(any(each.num_wrong for each in found.values()))


def run_case(case: Case, num_turns: int, cache: Path) -> Found:
    found = Found()
    undisturbed = run(found, case.script, cache, events_of=lambda _: [])
    if found.num_wrong:
        raise SystemExit("an undisturbed run went wrong")
    for _ in range(num_turns):
        found.turns.append(run_turn(case, undisturbed.ids, found, cache))
        print(found.turns[-1], file=sys.stderr, flush=True)
    return found


def run_turn(case: Case, expected: list[list[int]], found: Found, cache: Path) -> Turn:
    slow = partial(strike, case.factor)
    warm = replace(case.script, standby="warm", settle_s=SETTLE_S)
    cold = replace(case.script, standby="cold")
    moved = run(found, warm, cache, expected=expected, events_of=slow)
    still = run(found, cold, cache, expected=expected, events_of=slow, rebalance=False)
    [slowed] = {struck.event.device for struck in moved.account.struck}
    devices = [
        replace(each, slowdown=each.slowdown * case.factor) if each.name == slowed else each for each in cold.devices
    ]
    slow_script = replace(cold, devices=tuple(devices))
    fresh = run(found, slow_script, cache, expected=expected, events_of=lambda _: [], rebalance=False)
    return turn_of(slowed, moved, still, fresh)


def run(found: Found, script: Script, cache: Path, **options: Any) -> Played:
    """One run; counts it where its text is wrong."""
    began_s = time.monotonic()
    played = play(script, cache_dir=cache, **options)
    found.num_wrong += bool(played.errors) or not played.is_right
    news = "; ".join(each.text for each in played.account.news)
    print(f"{time.monotonic() - began_s:.0f} s: {verdict(played)} {news}", file=sys.stderr, flush=True)
    return played


def strike(factor: float, plan: Plan) -> Sequence[Event]:
    """The busiest device."""
    slowed = max(plan.stages, key=lambda stage: stage.num_units).device
    return [Event(None, "slow", slowed, factor=factor, token=STRIKE_AT)]


def turn_of(slowed: str, moved: Played, still: Played, fresh: Played) -> Turn:
    [struck] = moved.account.struck
    changes = [each for each in moved.account.news if each.kind == "rebalanced" and each.at_s > struck.at_s]
    stall_s = token_s = revised_s = None
    if changes:
        first = changes[0]
        revised_s, began_s = first.at_s - struck.at_s, first.at_s - (first.seconds or 0.0)
        [came_s, *_] = moved.account.came_s
        gaps = list(pairwise(came_s))
        usual = [later - earlier for earlier, later in gaps if struck.at_s < earlier and later < began_s]
        near = [later - earlier for earlier, later in gaps if later > began_s and earlier < first.at_s]
        if usual and near:
            token_s = statistics.median(usual)
            stall_s = max(near) - token_s
    return Turn(
        slowed,
        revised_s,
        stall_s,
        token_s,
        moved.outcome.after_per_s if changes else None,
        still.outcome.after_per_s,
        fresh.outcome.before_per_s,
        "; ".join(each.text for each in changes),
    )


def noise(options: argparse.Namespace, cache: Path) -> int:
    """One conversation over devices of which none is ever as fast as a moment before."""
    script, draw, is_over = CASES["third"].script, random.Random(options.seed), threading.Event()
    with Bed(script.devices, script.roads, cache_dir=cache) as bed:
        model = bed.cluster.load(script.model, dtype=script.dtype, placement="auto", cache_dir=cache, progress=silent)
        model.eos_ids = ()

        def waver() -> None:
            while not is_over.wait(NOISE_EVERY_S):
                for device in script.devices:
                    bed.slow(device.name, 1 + draw.uniform(-NOISE, NOISE))

        wavering = threading.Thread(target=waver, daemon=True)
        wavering.start()
        until_s = time.monotonic() + options.seconds
        num_tokens = 0
        while time.monotonic() < until_s:
            for _ in model.stream("Once upon a time", max_new_tokens=500):
                num_tokens += 1
                if time.monotonic() >= until_s:
                    break
        is_over.set()
        wavering.join()
        moves = [event.text for event in model.events if event.event == "rebalanced"]
    print(f"{options.seconds:.0f} s of noise of {NOISE:.0%}: {num_tokens} pieces of text, {len(moves)} moves")
    print("\n".join(moves))
    return int(bool(moves))


def as_page(cases: dict[str, Case], found: dict[str, Found], num_turns: int) -> str:
    links = "behind emulated links" if in_own_network() else "on loopback, without emulated links"
    load, cores = os.getloadavg()[0], os.cpu_count()
    command = f"python tests/bench/bench_balancing.py --turns {num_turns} --only {','.join(cases)}"
    what = f"the embedded model in float32 on the test bed, {links}; slow from token {STRIKE_AT} of {TOKENS} on."
    lines = [
        f"# What it gains that layers move, {datetime.date.today()}",
        "",
        f"{platform.machine()} with {cores} cores, load average {load:.1f} at the end; torch {torch.__version__}.",
        "",
        f"`{command}`: {what}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|---|{'--:|' * (len(COLUMNS) - 2)}",
    ]
    for name, each in found.items():
        lines += [_row(name, turn) for turn in each.turns]
    lines += ["", "| set-up | | asked for | median | worst |", "|---|---|--:|--:|--:|"]
    for name, each in found.items():
        lines += _bars(name, cases[name], each)
    lines += ["", "What moved:", ""]
    lines += [f"- {name}: {turn.what_moved or 'nothing'}" for name, each in found.items() for turn in each.turns]
    return "\n".join([*lines, ""])


COLUMNS = (
    "set-up",
    "slowed",
    "revised after, s",
    "stall, ms",
    "a token then, ms",
    "after it, tokens/s",
    "nothing moves",
    "gain",
    "loaded anew",
    "of that",
)


def _row(name: str, turn: Turn) -> str:
    cells = [
        name,
        turn.slowed,
        _shown(turn.revised_s, 2),
        _shown(_ms(turn.stall_s), 0),
        _shown(_ms(turn.token_s), 0),
        _shown(turn.moved_per_s, 2),
        _shown(turn.still_per_s, 2),
        _shown(turn.gain, 2),
        _shown(turn.fresh_per_s, 2),
        _shown(turn.of_fresh, 2),
    ]
    return f"| {' | '.join(cells)} |"


def _bars(name: str, case: Case, found: Found) -> list[str]:
    turns = found.turns
    beyond = [None if each.stall_s is None else each.stall_s - (each.token_s or 0.0) for each in turns]
    return [
        f"| {name} | texts that are wrong | 0 | {found.num_wrong} | |",
        _bar(name, "seconds until revised, at most", REVISED_S, [each.revised_s for each in turns], max),
        _bar(name, "stall beyond a token's time, ms, at most", STALL_S * 1e3, [_ms(each) for each in beyond], max),
        _bar(name, "times as fast as where nothing moves, at least", case.gain, [each.gain for each in turns], min),
        _bar(name, "of the speed of what is loaded anew, at least", OF_OPTIMUM, [each.of_fresh for each in turns], min),
    ]


def _bar(
    name: str,
    what: str,
    asked: float,
    values: Sequence[float | None],
    worst_of: Callable[[Iterable[float]], float],
) -> str:
    known = [each for each in values if each is not None]
    figures = f"{statistics.median(known):.2f} | {worst_of(known):.2f}" if known else "never | never"
    num_without = len(values) - len(known)
    without = f", {num_without} of {len(values)} never" if known and num_without else ""
    return f"| {name} | {what} | {asked:g} | {figures}{without} |"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _share(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
