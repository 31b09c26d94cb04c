"""Play a script of events on emulated phones.

    make testbed SCRIPT=tests/testbed/scripts/kill_in_decode.yaml
    PYTHONPATH=tests python -m testbed SCRIPT [--loopback] [--predict] [--json]

A line for each event as it happens, then what it came to. With root (and Linux) devices are network namespaces behind
emulated links; else, and with --loopback, processes on loopback. Exit code 1 where a text differs from the undisturbed
one, 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from shardnet.errors import ShardnetError
from shardnet.launch.files.config_files import load_data_file
from shardnet.simulator.script import Script, read_script
from testbed.bed import enter_own_network, in_own_network, why_not
from testbed.outcome import Outcome
from testbed.play import Played, play
from testbed.report import as_dict, as_table, not_emulated, verdict


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="testbed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", type=Path, help="a YAML file, such as those in tests/testbed/scripts/")
    parser.add_argument("--loopback", action="store_true", help="emulate no links, as without root")
    parser.add_argument("--predict", action="store_true", help="what the simulator says of it, in brackets")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    options = parser.parse_args()
    try:
        script = read_script(load_data_file(options.script), options.script.name)
        if not options.loopback and not in_own_network() and why_not() is None:
            return enter_own_network((sys.executable, "-m", "testbed", *sys.argv[1:]))
        return run(script, options)
    except ShardnetError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 2


def run(script: Script, options: argparse.Namespace) -> int:
    def tell(at_s: float, num_tokens: int, text: str) -> None:
        if not options.json:
            print(f"{at_s:7.2f} s  token {num_tokens:4}  {text}", flush=True)

    if not options.json:
        print(f"{script.name}: {', '.join(f'{each.name} 1/{each.slowdown:g}' for each in script.devices)}", flush=True)
    predicted = None
    if options.predict:
        from testbed.prediction import predict  # brings the planner

        predicted = predict(script)
    played = play(script, tell)
    show(played, predicted, options)
    return 0 if played.is_right else 1


def show(played: Played, predicted: Outcome | None, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(as_dict(played, predicted), indent=2))
        return
    print()
    print(as_table(played.outcome, predicted))
    for line in (verdict(played), not_emulated(played.missing)):
        if line:
            print(line)


if __name__ == "__main__":
    sys.exit(main())
