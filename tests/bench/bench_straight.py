"""How long a token takes from where it is sampled to who has asked for it: straight, and by the coordinator.

    python tests/bench/bench_straight.py [--rounds 10] [--tokens 40] [--delay-ms 20]

Three devices, the coordinator and a source in one process: real stages, sessions and sources of a tiny model, over a
network that lets every message between two of them take the same time, as between hosts. Both ways in turns, one answer
each; the second also with a source on the host of the device that samples. Printed: seconds from when a token was
sampled to when its source has it, the median and the slowest tenth, and the time to the first token.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from in_process_ring import PROMPT
from lasting_in_process import LastingInProcess, lasting_in_process
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.source.listening import Listening
from shardnet.stage import onward
from shardnet.transport.source_messages import COORDINATOR

DEVICES, SOURCE = "abc", "@source-1"
LAST = DEVICES[-1]
sampled_s: list[float] = []


def note_when_sampled() -> None:
    sample = onward.sample_step

    def noted(*args: Any) -> Any:
        ids = sample(*args)
        sampled_s.append(time.monotonic())
        return ids

    onward.sample_step = noted


def place(cluster: LastingInProcess, delay_s: float, *, is_beside: bool) -> None:
    """Everybody on a host of their own, or the source on that of the last device."""
    cluster.network.restore()
    for one, other in itertools.permutations((*DEVICES, COORDINATOR, SOURCE), 2):
        is_near = is_beside and {one, other} == {LAST, SOURCE}
        cluster.network.delay(one, other, 0.0 if is_near else delay_s)


def answer(model: Model, num_tokens: int) -> tuple[list[float], float]:
    """How late each token was, and the time to the first one."""
    sampled_s.clear()
    stream = model.stream(PROMPT, max_new_tokens=num_tokens)
    came_s = [time.monotonic() for _ in stream._tokens]
    stream.close()
    first_s = came_s[0] - stream._session.started_s
    return [came - sampled for came, sampled in zip(came_s, sampled_s, strict=True)], first_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    asked = parser.parse_args()
    delay_s = asked.delay_ms / 1000
    note_when_sampled()
    hear = Listening.open
    ways = {"by the coordinator": (False, False), "straight": (True, False), "straight, on one host": (True, True)}
    late: dict[str, list[float]] = {way: [] for way in ways}
    first: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, lasting_in_process(3, folder=Path(folder) / "state") as cluster:
        path = save_text_model(Path(folder) / "model", ends=False)
        cluster.coordinator.begin(str(path), {"dtype": "float32", "split": (2, 2, 2)}).done.result(60)
        model = cluster.connect().model
        for _ in range(asked.rounds):
            for way, (is_straight, is_beside) in ways.items():
                Listening.open = hear if is_straight else lambda *_: 0  # type: ignore[method-assign,assignment]
                place(cluster, delay_s, is_beside=is_beside)
                delays, first_s = answer(model, asked.tokens)
                late[way] += delays
                first[way].append(first_s)
    print(f"{asked.rounds} answers of {asked.tokens} tokens each way, {asked.delay_ms:g} ms between hosts; in ms:\n")
    print("| way | a token, middle | slowest tenth | first token |\n|---|--:|--:|--:|")
    for way in ways:
        middle, slow = statistics.median(late[way]), statistics.quantiles(late[way], n=10)[-1]
        shown = (f"{1000 * each:.1f}" for each in (middle, slow, statistics.median(first[way])))
        print(f"| {way} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
