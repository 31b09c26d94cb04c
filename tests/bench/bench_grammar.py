"""What following a grammar costs: answers that follow one beside free ones of as many tokens, in turns.

    python tests/bench/bench_grammar.py [--model M] [--devices 3] [--tokens 96] [--turns 7] [--json FILE]

Local devices, one thread each; greedy. Printed for each kind of grammar: the median over turns of how much longer a
token takes than one of the free answer of the same turn, from the first token to the last. At most 5% is wanted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from shardnet import Cluster

PROMPT = [{"role": "user", "content": "List the rivers of Europe, with their lengths."}]
RIVERS = {
    "type": "array",
    "minItems": 40,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 24},
            "kilometres": {"type": "integer", "minimum": 1, "maximum": 4000},
            "seas": {"type": "array", "items": {"enum": ["Black Sea", "North Sea", "Baltic"]}, "minItems": 1},
        },
        "required": ["name", "kilometres", "seas"],
        "additionalProperties": False,
    },
}
GRAMMARS: dict[str, dict[str, Any]] = {
    "a schema": {"json_schema": RIVERS},
    "an expression": {"regex": r"([A-Z][a-z]{2,12}( [a-z]{1,12}){3,9}[.] ){40}"},
    "any text": {"lark": "start: /(.|\\n)+/"},
}
MOST_SHARE = 0.05


def token_s(model: Any, num_tokens: int, **form: Any) -> float:
    """Seconds a token of one answer, behind the first."""
    ends = form or {"ignore_eos": True}
    [found] = model.generate([PROMPT], max_new_tokens=num_tokens, chat=True, **ends)
    if len(found.token_ids) < num_tokens // 2 or not found.tokens_per_s:
        sys.exit(f"the answer with {list(form)} has {len(found.token_ids)} tokens only: {found.text!r}")
    return float(1 / found.tokens_per_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shares: dict[str, list[float]] = {name: [] for name in GRAMMARS}
    with (
        Cluster.local(options.devices, threads_per_device=1) as cluster,
        cluster.load(options.model, rebalance=False) as model,
    ):
        for turn in range(options.turns + 1):
            free_s = token_s(model, options.tokens)
            for name, form in GRAMMARS.items():
                share = token_s(model, options.tokens, **form) / free_s - 1
                if turn:  # the first one reads the grammars, and warms up
                    shares[name].append(share)
    found = {name: statistics.median(each) for name, each in shares.items()}
    for name, share in found.items():
        low, high = min(shares[name]), max(shares[name])
        print(f"{name:14} {share:+.1%} a token ({low:+.1%} to {high:+.1%} in {options.turns} turns)")
    if options.json is not None:
        options.json.write_text(json.dumps({"shares": shares, "median": found}))
    if max(found.values()) > MOST_SHARE:
        sys.exit(f"following a grammar costs more than {MOST_SHARE:.0%}.")


if __name__ == "__main__":
    main()
