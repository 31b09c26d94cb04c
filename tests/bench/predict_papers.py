"""The tables of EdgeShard's and LinguaLinked's papers, predicted by shardnet's planner and simulator.

    python tests/bench/predict_papers.py    writes docs/benchmarks/planning_papers.md and the tables of docs/planning.md

Nothing is measured here. The published figures are those that could be verified; no other is quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from shardnet.described.clusters import PaperCluster
from shardnet.described.estimates import Workload, estimate_problem
from shardnet.errors import DoesNotFit, ShardnetError
from shardnet.launch.files.config_files import load_cluster, load_model_config
from shardnet.plan import Plan
from shardnet.planner import plan
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Policy
from shardnet.simulator import Event, Load, Recovery, simulate

OUT = Path(__file__).resolve().parents[2] / "docs/benchmarks/planning_papers.md"
PAGE = OUT.parents[1] / "planning.md"
MARKS = ("<!-- tables of tests/bench/predict_papers.py -->", "<!-- end of tables -->")
PUBLISHED = {("llama-2-7b", "EdgeShard"): ("75.88", "52.45"), ("llama-2-70b", "EdgeShard"): ("3086", "1.25")}
OOM = "does not fit"
IN_FLIGHT = 15
EDGESHARD_MODELS = ("llama-2-7b", "llama-2-13b", "llama-2-70b")
EDGESHARD_CONTEXT = 128
LOAD_PRECISION = Workload(dtype="float32", context_tokens=EDGESHARD_CONTEXT)

PHONES = {
    "1 high, 1 low": {"high": 1, "low": 1},
    "2 high, 1 low": {"high": 2, "low": 1},
    "1 high, 2 low": {"high": 1, "low": 2},
    "3 high": {"high": 3},
    "3 high, 2 low": {"high": 3, "low": 2},
}
BLOOMS = ("bloom-1b1", "bloom-1b7", "bloom-3b")


def main() -> None:
    text = "\n".join([*_head(), *edgeshard_table(), "", *bandwidth_table(), "", *lingualinked_tables(), ""])
    OUT.write_text(text, encoding="utf-8")
    print(text)
    _fill(PAGE, text[text.index("## ") :].replace("## ", "### ").strip())


def _fill(page: Path, tables: str) -> None:
    """Put the tables between the marks of the documentation's page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n\n{tables}\n\n{MARKS[1]}{after}", encoding="utf-8")


def _head() -> list[str]:
    return [
        "# The papers' tables, predicted",
        "",
        "Written by `python tests/bench/predict_papers.py`. All but the columns *published* is **predicted**, by the",
        "planner and simulator; nothing was measured here. Assumptions and deviations: [planning](../planning.md).",
        "",
    ]


# -- EdgeShard -------------------------------------------------------------------------------------------------------


def edgeshard_table() -> list[str]:
    """7B, 13B and 70B in fp32, 1 Mbit/s between the source and the cloud."""
    lines = [
        "## EdgeShard's testbed: 1 Mbit/s from the source to the cloud, fp32",
        "",
        "| model | method | predicted ms/token | published | predicted tokens/s | published | devices (latency) |",
        "|---|---|---|---|---|---|---|",
    ]
    testbed = load_cluster("edgeshard_testbed")
    for name in EDGESHARD_MODELS:
        whole = estimate_problem(load_model_config(name), testbed, LOAD_PRECISION).problem
        pair = estimate_problem(load_model_config(name), _only(testbed, {"agx-1", "cloud"}), LOAD_PRECISION).problem
        rows: list[tuple[str, Problem, str]] = [
            ("Edge-Solo", _only_device(pair, "agx-1"), "solo"),
            ("Cloud-Edge-Even", pair, "even"),
            ("Cloud-Edge-Opt", pair, "edgeshard"),
            ("EdgeShard", whole, "edgeshard"),
            ("shardnet `auto`", whole, "auto"),
        ]
        for label, problem, method in rows:
            latency = _made(problem, method, "latency", 1)
            rate = _made(problem, method, "throughput", IN_FLIGHT)
            told_ms, told_rate = PUBLISHED.get((name, label), ("", ""))
            if name == "llama-2-70b" and label != "EdgeShard" and not label.startswith("shardnet"):
                told_ms = told_rate = "out of memory"
            lines.append(
                f"| {name} | {label} | {_ms(latency)} | {told_ms} | {_rate(rate)} | {told_rate} | {_devices(latency)} |"
            )
    return lines


def bandwidth_table() -> list[str]:
    """How the way to the cloud changes the plan."""
    lines = [
        "## The same, Llama-2-7B, by bandwidth between every edge device and the cloud",
        "",
        "| Mbit/s | Edge-Solo | Cloud-Edge-Opt | EdgeShard | shardnet `auto` |",
        "|---|---|---|---|---|",
    ]
    testbed, model = load_cluster("edgeshard_testbed"), load_model_config("llama-2-7b")
    for mbit in (1, 5, 10, 25, 50):
        links = tuple(
            replace(link, bytes_per_s=mbit * 1e6 / 8) if "cloud" in (link.source, link.target) else link
            for link in testbed.links
        )
        cluster = replace(testbed, links=links)
        whole = estimate_problem(model, cluster, LOAD_PRECISION).problem
        pair = estimate_problem(model, _only(cluster, {"agx-1", "cloud"}), LOAD_PRECISION).problem
        made = [
            _made(_only_device(pair, "agx-1"), "solo", "latency", 1),
            _made(pair, "edgeshard", "latency", 1),
            _made(whole, "edgeshard", "latency", 1),
            _made(whole, "auto", "latency", 1),
        ]
        lines.append(f"| {mbit} | " + " | ".join(f"{_ms(each)}" for each in made) + " |")
    return lines


# -- LinguaLinked ----------------------------------------------------------------------------------------------------


def lingualinked_tables() -> list[str]:
    """The three speed-ups, as ranges over models and sets of phones."""
    lines = [
        "## LinguaLinked's three speed-ups, 16 bits, as ranges over BLOOM 1b1, 1b7, 3b and five sets of phones",
        "",
        "| speed-up | published | predicted, `lingualinked` | predicted, `auto` |",
        "|---|---|---|---|",
    ]
    kinds: list[tuple[str, str, Callable[[Problem, str], float]]] = [
        ("optimised assignment, one thread", "1.11-1.61", _one_thread),
        ("the same and several threads", "1.73-2.65", _several_threads),
        ("runtime balancing", "1.29-1.32", _balancing),
    ]
    for label, published, speedup in kinds:
        cells = []
        for method in ("lingualinked", "auto"):
            found = list(_speedups(speedup, method))
            middle = sorted(found)[len(found) // 2]
            cells.append(f"{min(found):.2f}-{max(found):.2f}, median {middle:.2f} of {len(found)}")
        lines.append(f"| {label} | {published} | {cells[0]} | {cells[1]} |")
    return lines


def _speedups(speedup: Callable[[Problem, str], float], method: str) -> Iterable[float]:
    for phones in PHONES.values():
        for name in BLOOMS:
            problem = _phones_problem(phones, name)
            try:
                yield speedup(problem, method)
            except ShardnetError:  # the baseline or the method has no plan that fits
                continue


def _one_thread(problem: Problem, method: str) -> float:
    """One request at a time: the even split's lap over the method's."""
    even = plan(problem, objective="latency", method="even")
    return _lap(problem, even) / _lap(problem, plan(problem, objective="latency", method=method))


def _several_threads(problem: Problem, method: str) -> float:
    """As many requests in flight as phones, against the even split with one at a time."""
    even = plan(problem, objective="latency", method="even")
    threads = problem.num_devices
    goal = "throughput" if method == "auto" else "latency"
    made = plan(problem, objective=goal, method=method, in_flight=threads)
    return _lap(problem, even) * evaluate(problem, made.stages).rate(threads)


def _balancing(problem: Problem, method: str) -> float:
    """The busiest phone beside the source becomes half as fast at 10 s: 300 s with and without moving layers."""
    start = plan(problem, objective="latency", method=method)
    cost = evaluate(problem, start.stages)
    others = {name: busy for name, busy in cost.device_busy_s.items() if name != problem.source}
    victim = max(others, key=lambda name: others[name]) if others else problem.source
    load = Load(new_tokens=max(200, round(300 / cost.lap_s)))
    events = [Event(10.0, "slow", victim, factor=2.0)]

    def replan(other: Problem) -> Plan:
        return plan(other, objective="latency", method=method)

    policy = Policy(min_gain=0.05)
    still = simulate(problem, start, load, events, Recovery(replan, policy, rebalance=False))
    moved = simulate(problem, start, load, events, Recovery(replan, policy))
    return moved.tokens_per_s / still.tokens_per_s


def _phones_problem(phones: dict[str, int], model: str) -> Problem:
    cluster = load_cluster("lingualinked_phones")
    names = {f"{group}-{index + 1}" for group, count in phones.items() for index in range(count)}
    return estimate_problem(
        load_model_config(model), _only(cluster, names), Workload(dtype="float16", context_tokens=256)
    ).problem


# -- both ------------------------------------------------------------------------------------------------------------


def _only(cluster: PaperCluster, names: set[str]) -> PaperCluster:
    return cluster.without(*(device.name for device in cluster.devices if device.name not in names))


def _only_device(problem: Problem, name: str) -> Problem:
    return replace(problem, devices=(problem.devices[problem.index[name]],), links=())


def _made(problem: Problem, method: str, objective: str, in_flight: int) -> Plan | None:
    try:
        return plan(problem, objective=objective, method=method, in_flight=in_flight, time_limit_s=30.0)
    except DoesNotFit:
        return None


def _lap(problem: Problem, made: Plan) -> float:
    return evaluate(problem, made.stages).lap_s


def _ms(made: Plan | None) -> str:
    return OOM if made is None or made.lap_s is None else f"{made.lap_s * 1e3:.2f}"


def _rate(made: Plan | None) -> str:
    return OOM if made is None or made.rate_per_s is None else f"{made.rate_per_s:.2f}"


def _devices(made: Plan | None) -> str:
    if made is None:
        return ""
    parts = [f"{stage.device} {stage.num_units}" for stage in made.stages]
    return ", ".join(parts[:4]) + (f" ... {len(made.devices)} devices" if len(parts) > 4 else "")


if __name__ == "__main__":
    main()
