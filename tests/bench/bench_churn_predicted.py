"""How long `shardnet simulate` takes for an hour in which a thousand devices come and go, and what that hour costs.

    python tests/bench/bench_churn_predicted.py [--model M] [--standby warm] [--seeds N] [--json FILE]

A device of `thousand_mixed` stays 10 minutes on average, and is back after 5; 64 sessions ask again and again.
Everything but the seconds is predicted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMAND = ("--cluster", "thousand_mixed", "--bits", "4", "--in-flight", "64", "--context", "256")
CHURN = ("--duration-s", "3600", "--stay-s", "600", "--away-s", "300")
MOST_S = 60.0


def hour(model: str, standby: str, seed: int) -> dict[str, Any]:
    """One run, as a user starts it; `real_s` and `cpu_s` are those of the whole process."""
    shardnet = str(Path(sys.executable).with_name("shardnet"))
    arguments = ("--model", model, *COMMAND, *CHURN, "--standby", standby, "--seed", str(seed), "--json")
    before, begin_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    told = json.loads(subprocess.run((shardnet, "simulate", *arguments), check=True, capture_output=True).stdout)
    real_s, after = time.perf_counter() - begin_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**told, "seed": seed, "real_s": real_s, "cpu_s": cpu_s}


def row(told: dict[str, Any], new_tokens: int = 128) -> str:
    repairs, answers = told["repairs"], told["answers"]
    assert told["failed"] is None and told["tokens"] == answers * new_tokens, "an answer is not whole"
    shares = ", ".join(f"{cause} {lost_s / repairs['answers_s']:.2%}" for cause, lost_s in repairs["lost_s"].items())
    return (
        f"seed {told['seed']}: {told['duration_s']:.0f} s in {told['real_s']:.1f} s ({told['cpu_s']:.1f} s of a core); "
        f"{answers} answers, all whole; {repairs['repairs']} repairs, {repairs['lost_share']:.2%} of the time lost "
        f"({shares})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-2-7b")
    parser.add_argument("--standby", default="warm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        runs.append(hour(options.model, options.standby, seed))
        print(row(runs[-1]), flush=True)
    if options.json is not None:
        kept = ("seed", "real_s", "cpu_s", "duration_s", "answers", "tokens", "repairs")
        options.json.write_text(json.dumps([{key: told[key] for key in kept} for told in runs], indent=2))
    return 0 if max(told["cpu_s"] for told in runs) < MOST_S else 1


if __name__ == "__main__":
    sys.exit(main())
