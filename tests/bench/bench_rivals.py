"""shardnet beside llama.cpp: the same file, bits and links, one thread a device, both sides in turns.

    make rivals                                                     # once: llama.cpp, and the model of 1.1 B
    python tests/bench/bench_rivals.py [--cases one,far] [--models embedded,1.1b] [--turns 5] [--json FILE]

The cases are rows of the table that it prints, with the bars that the project set itself. Three devices are processes
on loopback, or network namespaces with emulated links between them (root), where who asks is a host more; llama.cpp
computes on three of its RPC servers there. A ratio is the median of those of neighbouring turns. Exit code 1 where a
bar is missed, and no figure counts on a machine that does anything else.

Look-up: our answers repeat texts (`rivals/texts.py`): real ones with the embedded model; with the model of 1.1 B, whose
weights are random, a prompt in which as much is found as the embedded model's answers were found in theirs. llama.cpp's
benchmarks know no look-up: beside them stands its plain decoding, whose speed does not depend on the text.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.model import Model
from shardnet.loader.sources import find_embedded
from shardnet.session.options import GenerationOptions
from shardnet.simulator.script import Road

sys.path.insert(0, str(Path(__file__).parents[1]))
from rivals.build_llama_cpp import programs_in
from rivals.cases import CASES, DECODE, EMBEDDED, FAR, LARGE, LOOK_UP, MODELS, ONE, PREFILL, SESSIONS, Case
from rivals.chain_model import Shape, chain_of
from rivals.llama_cpp import LlamaCpp
from rivals.places import Setting, both_sides
from rivals.texts import RUNS, messages_of, num_tokens, played_back
from session_rates import rate_of_several
from testbed.bed import enter_own_network, in_own_network, why_not

CACHE = Path("~/.cache/shardnet-tests").expanduser()
NUM_BLOCKS = {EMBEDDED: 30, LARGE: Shape.blocks}
Result = dict[str, Any]
"""Of a case and a model: what was measured."""


def known(record: Any, **wanted: Any) -> dict[str, Any]:
    """Of what is wanted, what this version knows."""
    fields = {field.name for field in dataclasses.fields(record)}
    return {option: value for option, value in wanted.items() if option in fields}


WEIGHTS = known(LoadOptions, weights="auto")
PLAINLY = known(GenerationOptions, speculate="off")
LOOKING_UP = known(GenerationOptions, speculate="lookup")


def main() -> int:
    options = parsed()
    programs = programs_in(options.llama_cpp)
    if programs is None or (LARGE in options.models and not options.large.exists()):
        print("There is nothing to compare with here: make rivals builds llama.cpp and writes the model of 1.1 B.")
        return 0
    setting = Setting(
        programs,
        CACHE / "llama.cpp" / "tensors",
        Road(options.mbit_per_s * 1e6 / 8, options.round_trip_ms / 2000),
        options.asker_computes,
    )
    if in_own_network():
        print(json.dumps(measured(options, setting)), file=options.told)
        return 0
    results = measured(options, setting, [case for case in options.cases if case.place != FAR])
    results += measured_far(options)
    print(as_table(results, options))
    if options.json is not None:
        about = {**about_run(options), "results": results}
        options.json.write_text(json.dumps(about, indent=1) + "\n")
    return int(any(not result["is_met"] for result in results))


def parsed() -> argparse.Namespace:
    by_name = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(by_name), help=f"of {', '.join(by_name)}")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--turns", type=int, default=5, help="that count; one more warms up")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer; those of look-up are as they are")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt, where its length is not measured")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--split", help="units of each of three devices, such as 10,10,12 [default: by the planner]")
    parser.add_argument("--round-trip-ms", type=float, default=5.0)
    parser.add_argument("--mbit-per-s", type=float, default=100.0)
    parser.add_argument("--asker-computes", action="store_true", help="llama.cpp's client is its first device")
    parser.add_argument("--llama-cpp", type=Path, default=CACHE / "llama.cpp", help="the folder with build/bin")
    parser.add_argument("--large", type=Path, default=CACHE / "chain-1.1b.Q4_1.gguf")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--told", type=argparse.FileType("w"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.models = [model for model in MODELS if model in options.models.split(",")]
    options.cases = [by_name[name] for name in options.cases.split(",")]
    options.split = None if options.split is None else tuple(map(int, options.split.split(",")))
    return options


def measured_far(options: argparse.Namespace) -> list[Result]:
    """The cases with emulated links: this program again, in a network of its own."""
    cases = [case.name for case in options.cases if case.place == FAR]
    if not cases:
        return []
    if reason := why_not():
        print(f"Left out: {', '.join(cases)}: {reason}.", file=sys.stderr)
        return []
    with tempfile.NamedTemporaryFile("r") as file:
        again = (sys.executable, *sys.argv, "--cases", ",".join(cases), "--told", file.name)
        if code := enter_own_network(again):
            raise SystemExit(code)
        results: list[Result] = json.load(file)
    return results


def measured(options: argparse.Namespace, setting: Setting, cases: list[Case] | None = None) -> list[Result]:
    """Each model on each place, once; there all cases in turns."""
    cases = options.cases if cases is None else cases
    results = []
    for name in options.models:
        for place in dict.fromkeys(case.place for case in cases):
            here = [case for case in cases if case.place == place]
            results += measured_at(place, here, name, options, setting)
    return results


def measured_at(
    place: str, cases: list[Case], name: str, options: argparse.Namespace, setting: Setting
) -> list[Result]:
    file = find_embedded() if name == EMBEDDED else options.large
    ours: dict[str, list[float]] = {case.name: [] for case in cases}
    theirs: dict[str, list[float]] = {case.name: [] for case in cases}
    asked = {"dtype": options.dtype, "standby": "none", "rebalance": False, "progress": lambda *_: None}
    asked |= WEIGHTS
    if options.split and place != ONE:
        asked["split"] = options.split
    with both_sides(place, file, NUM_BLOCKS[name], setting) as pair:
        model = pair.cluster.load(str(file), **asked)
        model.eos_ids = ()  # every answer has the same number of tokens
        for turn in range(options.turns + 1):
            asked_rival: dict[str, float] = {}
            for case in cases:
                one = our_rate(case, name, model, options, turn)
                other = (
                    plain_rate(case, name, model)
                    if case.against_plain
                    else their_rate(case, pair.rival, options, asked_rival)
                )
                told = f"{name} {case.name} {turn}: {one:.4g} and {other:.4g} tokens/s"
                print(told if turn else f"{told} (warm-up)", file=sys.stderr, flush=True)
                if turn:
                    ours[case.name].append(one)
                    theirs[case.name].append(other)
    return [result_of(case, name, ours[case.name], theirs[case.name]) for case in cases]


def our_rate(case: Case, name: str, model: Model, options: argparse.Namespace, turn: int) -> float:
    """Tokens per second in one turn. A prompt is another one each time, or nothing would be left to compute."""
    draw = Random(f"{case.name} {turn}")
    if case.what == PREFILL:
        [answer] = model.generate([drawn(draw, options.prefill)], max_new_tokens=1, **PLAINLY)
        return float(options.prefill / answer.time_to_first_token_s)
    if case.what == LOOK_UP:
        return decode_rate(model, prompt_of(case.text, name, model), num_tokens(case.text), LOOKING_UP)
    if case.what == DECODE:
        return decode_rate(model, drawn(draw, options.prompt), options.tokens, PLAINLY)
    return rate_of_several(model, drawn(draw, options.prompt), options.tokens, options.sessions)


def drawn(draw: Random, length: int) -> list[int]:
    return [draw.randrange(400, 30_000) for _ in range(length)]


def decode_rate(model: Model, prompt: list[int], new: int, asked: dict[str, Any]) -> float:
    [answer] = model.generate([prompt], max_new_tokens=new, **asked)
    assert answer.tokens_per_s is not None, "long enough to tell"
    return answer.tokens_per_s


def prompt_of(text: str, name: str, model: Model) -> list[int]:
    if name == EMBEDDED:
        return model.encode(messages_of(text), chat=True)
    return played_back(RUNS[text], chain_of(Shape()))


def plain_rate(case: Case, name: str, model: Model) -> float:
    """Ours without look-up, of the same text."""
    return decode_rate(model, prompt_of(case.text, name, model), num_tokens(case.text), PLAINLY)


def their_rate(case: Case, rival: LlamaCpp, options: argparse.Namespace, asked: dict[str, float]) -> float:
    """The same of llama.cpp, which is asked once a turn for each kind. Beside look-up stands its decoding."""
    what = DECODE if case.what == LOOK_UP else case.what
    if what not in asked:
        ask: dict[str, Callable[[], float]] = {
            PREFILL: lambda: rival.prefill_per_s(options.prefill),
            DECODE: lambda: rival.decode_per_s(options.prompt, options.tokens),
            SESSIONS: lambda: rival.sessions_per_s(options.sessions, options.prompt, options.tokens),
        }
        asked[what] = ask[what]()
    return asked[what]


def result_of(case: Case, name: str, ours: list[float], theirs: list[float]) -> Result:
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    bar = case.bars[name]
    return {
        "case": case.name,
        "title": case.title,
        "model": name,
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "bar": bar,
        "is_met": ratio >= bar,
    }


def about_run(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": " ".join(["python", "tests/bench/bench_rivals.py", *sys.argv[1:]]),
        "date": str(datetime.date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "link": f"{options.round_trip_ms:g} ms round trip, {options.mbit_per_s:g} Mbit/s",
        "weights": WEIGHTS.get("weights", options.dtype),
        "knows_look_up": bool(LOOKING_UP),
        "client_computes": options.asker_computes,
        "tokens": options.tokens,
        "prompt": options.prompt,
        "turns": options.turns,
    }


def as_table(results: list[Result], options: argparse.Namespace) -> str:
    about = about_run(options)
    head = ", ".join(f"{key} {about[key]}" for key in ("date", "machine", "torch", "link", "weights", "turns"))
    lines = [
        head,
        "",
        "| what | model | shardnet | llama.cpp (or plain) | ratio | bar | met |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for result in results:
        sides = " | ".join(shown(result[side]) for side in ("ours", "theirs"))
        met = "yes" if result["is_met"] else "**no**"
        lines.append(
            f"| {result['title']} | {result['model']} | {sides} | {result['ratio']:.2f} | {result['bar']} | {met} |"
        )
    if not about["knows_look_up"]:
        lines += ["", "This version has no look-up: those rows are plain decoding."]
    return "\n".join(lines)


def shown(rates: list[float]) -> str:
    return f"{statistics.median(rates):.4g} ({min(rates):.4g} to {max(rates):.4g})"


if __name__ == "__main__":
    sys.exit(main())
