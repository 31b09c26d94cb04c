"""What the second turn of a chat costs: the time to its first token beside that of a new chat with the new turn alone.

    python tests/bench/bench_turns.py [--model M] [--devices 3] [--tokens 1500] [--new 40] [--rounds 7] [--json FILE]

Local devices, one thread each. In every round, in turns: a new chat with the new turn alone; a chat of so many tokens
(prompt and answer) and then its second turn; and the same once more where others have the rows behind it, so that it is
copied. Prompts are random ids, other ones in each round, so that nothing else is shared. Printed: medians, and the
ratios' median, which is to be at most 1.3 for the second turn.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from shardnet import Cluster

NUM_ANSWER = 32
MOST_RATIO = 1.3


def first_token_s(model: Any, prompt: list[int], num_shared: int = 0) -> float:
    """Seconds from the request to the first token."""
    with model.stream(prompt, max_new_tokens=2) as stream:
        for _ in stream._session:
            break
        session = stream._session
        if session.num_shared < num_shared:
            sys.exit(f"{session.num_shared} tokens were shared, and not {num_shared}: {model.events}")
        return float(session.first_token_s - session.started_s)


def first_turn(model: Any, num_tokens: int, ids: random.Random, *, is_hemmed_in: bool) -> list[int]:
    """The ids of a chat whose first turn is over."""
    prompt = [ids.randrange(1000, 20_000) for _ in range(num_tokens - NUM_ANSWER)]
    with model.stream(prompt, max_new_tokens=NUM_ANSWER) as stream:
        answer = [token.token_id for token in stream._session]
    if is_hemmed_in:  # a short chat lies behind it by now
        first_token_s(model, [ids.randrange(1000, 20_000) for _ in range(20)])
    return prompt + answer


def load(cluster: Cluster, options: argparse.Namespace) -> Any:
    """Layers stay where they are: those that move forget what stays of closed sessions."""
    return cluster.load(options.model, dtype=options.dtype, rebalance=False)


def measure(model: Any, options: argparse.Namespace) -> dict[str, list[float]]:
    ids = random.Random(0)
    seconds: dict[str, list[float]] = {"new": [], "second": [], "copied": [], "whole": []}
    for number in range(options.rounds + 1):
        turn = [ids.randrange(1000, 20_000) for _ in range(options.new)]
        found = {"new": first_token_s(model, turn)}
        for name, is_hemmed_in in (("second", False), ("copied", True)):
            chat = first_turn(model, options.tokens, ids, is_hemmed_in=is_hemmed_in)
            found[name] = first_token_s(model, chat + turn, len(chat) - 1)
        whole = [ids.randrange(1000, 20_000) for _ in range(options.tokens + options.new)]
        found["whole"] = first_token_s(model, whole)
        if number:  # the first round warms up
            for name, each in found.items():
                seconds[name].append(each)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with (
        Cluster.local(options.devices, threads_per_device=1) as cluster,
        load(cluster, options) as model,
    ):
        seconds = measure(model, options)
    ratios = {
        name: statistics.median(one / new for one, new in zip(each, seconds["new"], strict=True))
        for name, each in seconds.items()
    }
    for name, words in (
        ("new", f"a new chat of {options.new} tokens"),
        ("second", f"second turn of a chat of {options.tokens}, {options.new} new"),
        ("copied", "the same, with others behind its rows"),
        ("whole", f"a new chat of {options.tokens + options.new} tokens"),
    ):
        print(f"{words:50} {1e3 * statistics.median(seconds[name]):8.1f} ms {ratios[name]:6.2f} x")
    if options.json is not None:
        options.json.write_text(json.dumps({"seconds": seconds, "ratios": ratios}, indent=1))
    if ratios["second"] > MOST_RATIO:
        sys.exit(f"The second turn takes {ratios['second']:.2f} times as long as the new turn alone, not {MOST_RATIO}.")


if __name__ == "__main__":
    main()
