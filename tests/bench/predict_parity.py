"""Keys and values after a loss: computed anew, mirrored to another device, or rebuilt from a parity of all devices.

    python tests/bench/predict_parity.py    writes docs/benchmarks/kv_parity.md

On paper: nothing is measured here. A model is planned on a described cluster; each device but the source is lost in
turn, and its units go to the devices on both sides, which have the weights. *Anew*: these are sent again what the stage
before had sent, and compute. *Mirrored*: they have the keys and values, and compute the last few tokens; what is
mirrored is sent while tokens are made. *Parity*: one device keeps the exclusive or of the keys and values of all, each
padded to the largest, to which every device sends its own; after a loss the others send theirs once more.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from shardnet.described.estimates import Workload, estimate_problem
from shardnet.launch.files.config_files import load_cluster, load_model_config
from shardnet.plan import StagePlan
from shardnet.planner import plan
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem

OUT = Path(__file__).resolve().parents[2] / "docs/benchmarks/kv_parity.md"
CASES = (
    ("smollm2-135m", "lingualinked_phones", None),
    ("bloom-3b", "lingualinked_phones", None),
    ("llama-2-7b", "home", 4),
    ("qwen3-8b", "home", 4),
    ("qwen3-32b", "home", 4),
)
LENGTHS = (100, 1500)
LAST_TOKENS = 4
"""Which a mirror lacks."""


class Estimate(NamedTuple):
    """For the worst loss."""

    anew_s: float
    mirrored_s: float
    parity_s: float
    mirror_bytes: float
    """Of the largest mirror, at the length."""
    parity_bytes: float
    weight_bytes: float
    """Of the largest stage, which somebody must have ready in any case."""
    mirror_share: float
    """Of the time of a token in which the busiest way carries what is mirrored."""
    parity_share: float


def main() -> None:
    rows = [_row(*case, length) for case in CASES for length in LENGTHS]
    OUT.write_text("\n".join([*_HEAD, *rows, "", *_READING, ""]), encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


def _row(model: str, cluster: str, bits: int | None, length: int) -> str:
    workload = Workload(bits=bits, context_tokens=max(LENGTHS) + LAST_TOKENS)
    problem = estimate_problem(load_model_config(model), load_cluster(cluster), workload).problem
    stages = plan(problem, method="memory").stages
    found = _estimate(problem, stages, length)
    seconds = f"{found.anew_s:.2f} | {found.mirrored_s:.2f} | {found.parity_s:.2f}"
    sizes = " | ".join(f"{num / 2**20:.0f}" for num in (found.weight_bytes, found.mirror_bytes, found.parity_bytes))
    shares = f"{found.mirror_share:.0%} | {found.parity_share:.0%}"
    shown = f"{model}{f', {bits} bits' if bits else ''}"
    return f"| {shown} | {cluster} | {length} | {seconds} | {sizes} | {shares} |"


def _estimate(problem: Problem, stages: tuple[StagePlan, ...], length: int) -> Estimate:
    kv = [_kv_bytes_per_token(problem, stage) for stage in stages]
    token_s = evaluate(problem, stages).lap_s
    lost = [index for index, stage in enumerate(stages) if stage.device != problem.source]
    holder = stages[0].device  # of the parity: the source is not lost
    from_others = sum(num for index, num in enumerate(kv) if stages[index].device != holder)
    slowest = min(_bytes_per_s(problem, stages[index].device, holder) for index in lost)
    return Estimate(
        anew_s=max(_replay_s(problem, stages, index, length) for index in lost),
        mirrored_s=max(_replay_s(problem, stages, index, LAST_TOKENS) for index in lost),
        parity_s=max(_rebuild_s(problem, stages, kv, index, length) for index in lost),
        mirror_bytes=max(kv[index] for index in lost) * length,
        parity_bytes=max(kv) * length,
        weight_bytes=max(_weight_bytes(problem, stages[index]) for index in lost),
        mirror_share=max(_mirror_s(problem, stages, kv, index) for index in lost) / token_s,
        parity_share=from_others / slowest / token_s,
    )


def _kv_bytes_per_token(problem: Problem, stage: StagePlan) -> float:
    return sum(unit.kv_bytes_per_token for unit in problem.units[stage.first_unit : stage.last_unit + 1])


def _weight_bytes(problem: Problem, stage: StagePlan) -> float:
    return sum(unit.weight_bytes for unit in problem.units[stage.first_unit : stage.last_unit + 1])


def _takers(stages: tuple[StagePlan, ...], index: int) -> list[str]:
    """Those on both sides of a stage."""
    beside = [stages[index - 1].device, stages[(index + 1) % len(stages)].device]
    return list(dict.fromkeys(device for device in beside if device != stages[index].device))


def _replay_s(problem: Problem, stages: tuple[StagePlan, ...], index: int, length: int) -> float:
    """What a stage had is computed anew by its neighbours, each half of it, one after the other."""
    stage, takers = stages[index], _takers(stages, index)
    seconds = 0.0
    for unit in range(stage.first_unit, stage.last_unit + 1):
        position = (unit - stage.first_unit) * len(takers) // stage.num_units
        device = problem.devices[problem.index[takers[position]]]
        assert device.prefill_unit_seconds is not None, "described clusters have them"
        seconds += device.prefill_unit_seconds[unit] * length
    row_bytes = problem.units[stage.first_unit].output_bytes
    if len(takers) > 1:
        seconds += row_bytes * length / _bytes_per_s(problem, *takers[:2])
    return seconds


def _rebuild_s(problem: Problem, stages: tuple[StagePlan, ...], kv: list[float], index: int, length: int) -> float:
    """The parity and what all other stages have go to who takes over, over one way into it."""
    taker = _takers(stages, index)[0]
    senders = {stage.device: kv[at] for at, stage in enumerate(stages) if at != index and stage.device != taker}
    rates = [_bytes_per_s(problem, sender, taker) for sender in senders]
    to_come = sum(senders.values()) + (0 if taker == stages[0].device else max(kv))
    last_s = _replay_s(problem, stages, index, LAST_TOKENS)
    return to_come * length / min(rates, default=float("inf")) + last_s


def _mirror_s(problem: Problem, stages: tuple[StagePlan, ...], kv: list[float], index: int) -> float:
    """Of one token: what a stage has new goes to its neighbours, half of it to each."""
    takers = _takers(stages, index)
    rate = min(_bytes_per_s(problem, stages[index].device, taker) for taker in takers)
    return kv[index] / rate


def _bytes_per_s(problem: Problem, source: str, target: str) -> float:
    found = [link.bytes_per_s for link in problem.links if (link.source, link.target) == (source, target)]
    return max(found)


_COLUMNS = (
    *("model", "cluster", "tokens", "s: anew", "mirrored", "parity", "MiB: weights", "mirror", "parity"),
    *("of a token's time, to send: mirror", "parity"),
)
_HEAD = (
    "# Keys and values after a loss, on paper",
    "",
    "Written by `python tests/bench/predict_parity.py`, which says what is reckoned how. All is **predicted**.",
    "",
    f"| {' | '.join(_COLUMNS)} |",
    f"|---|---|{'--:|' * (len(_COLUMNS) - 2)}",
)
_READING = (
    "Seconds are from when the loss is known, with the weights ready; MiB are those of the largest stage. Mirroring",
    "repairs at once, whatever the length. Rebuilding from a parity takes longer, up to some hundred times, and grows",
    "with the length; it beats computing anew where devices are slow and links are quick. What it saves is memory: one",
    "buffer for all devices, where each mirror takes as much for one. But a mirror is small beside the weights that",
    "are ready beside it: whoever has room for those has room for the mirror. So shardnet mirrors (`--standby hot`)",
    "and computes anew, and has no parity.",
)


if __name__ == "__main__":
    main()
