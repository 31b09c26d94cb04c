"""How long a token takes from where it is sampled to who has asked for it: straight, and by the coordinator.

    python tests/bench/bench_straight.py [--rounds 10] [--tokens 40] [--delay-ms 20]

Three devices, the coordinator and a source in one process: real stages, sessions and sources of a tiny model, over a
network that lets every message between two of them take the same time, as between hosts. Both ways in turns, one answer
each; the second also with a source on the host of the device that samples. Printed: the time from when a token was
sampled to when its source has it, the median and the slowest tenth, and the time to the first token; of the prompt,
when its ids are at the first stage, and when its source knows where that is and could have begun to send them there.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from in_process_ring import PROMPT
from lasting_in_process import LastingInProcess, lasting_in_process
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.device.worker import Worker
from shardnet.source.listening import Listening
from shardnet.stage.sampling import Scores
from shardnet.transport.messages import Hop
from shardnet.transport.source_messages import COORDINATOR

DEVICES, SOURCE = "abc", "@source-1"
LAST = DEVICES[-1]
sampled_s: list[float] = []
prompts_s: list[float] = []


def note_moments() -> None:
    """When something is sampled, and when a prompt comes to the first stage."""
    draw, bulk_hop = Scores.draw, Worker.bulk_hop

    def noted(*args: Any) -> Any:
        token_id = draw(*args)
        sampled_s.append(time.monotonic())
        return token_id

    def came(worker: Worker, hop: Hop) -> Any:
        if hop.sender == COORDINATOR:
            prompts_s.append(time.monotonic())
        return bulk_hop(worker, hop)

    Scores.draw, Worker.bulk_hop = noted, came  # type: ignore[method-assign]


def place(cluster: LastingInProcess, delay_s: float, *, is_beside: bool) -> None:
    """Everybody on a host of their own, or the source on that of the last device."""
    cluster.network.restore()
    for one, other in itertools.permutations((*DEVICES, COORDINATOR, SOURCE), 2):
        is_near = is_beside and {one, other} == {LAST, SOURCE}
        cluster.network.delay(one, other, 0.0 if is_near else delay_s)


class Measured(NamedTuple):
    """Of one answer."""

    late_s: list[float]
    first_s: float
    prompt_s: float
    open_s: float


def answer(model: Model, num_tokens: int) -> Measured:
    sampled_s.clear()
    prompts_s.clear()
    stream = model.stream(PROMPT, max_new_tokens=num_tokens)
    open_s = time.monotonic()
    came_s = [time.monotonic() for _ in stream._tokens]
    stream.close()
    began_s = stream._session.started_s
    late_s = [came - sampled for came, sampled in zip(came_s, sampled_s, strict=True)]
    return Measured(late_s, came_s[0] - began_s, prompts_s[0] - began_s, open_s - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    asked = parser.parse_args()
    delay_s = asked.delay_ms / 1000
    note_moments()
    hear = Listening.open
    ways = {"by the coordinator": (False, False), "straight": (True, False), "straight, on one host": (True, True)}
    measured: dict[str, list[Measured]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, lasting_in_process(3, folder=Path(folder) / "state") as cluster:
        path = save_text_model(Path(folder) / "model", ends=False)
        cluster.coordinator.begin(str(path), {"dtype": "float32", "split": (2, 2, 2)}).done.result(60)
        model = cluster.connect().model
        for _ in range(asked.rounds):
            for way, (is_straight, is_beside) in ways.items():
                Listening.open = hear if is_straight else lambda *_: 0  # type: ignore[method-assign,assignment]
                place(cluster, delay_s, is_beside=is_beside)
                measured[way].append(answer(model, asked.tokens))
    print(f"{asked.rounds} answers of {asked.tokens} tokens each way, {asked.delay_ms:g} ms between hosts; in ms:\n")
    print("| way | a token, middle | slowest tenth | first token | prompt there | source knows where |")
    print("|---|--:|--:|--:|--:|--:|")
    for way, answers in measured.items():
        late_s = [each for one in answers for each in one.late_s]
        late = [statistics.median(late_s), statistics.quantiles(late_s, n=10)[-1]]
        rest = [
            statistics.median(of)
            for of in zip(*((one.first_s, one.prompt_s, one.open_s) for one in answers), strict=True)
        ]
        shown = (f"{1000 * each:.1f}" for each in late + rest)
        print(f"| {way} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
