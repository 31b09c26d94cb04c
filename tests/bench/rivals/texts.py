"""Conversations whose answers repeat much of their prompts, and the same repetition for a model that says a chain.

    python tests/bench/rivals/texts.py

records `RUNS` anew, from the embedded model's greedy answers in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

EDITED = """def read_rows(path, separator):
    rows = []
    with open(path) as file:
        for line in file:
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            rows.append(line.split(separator))
    return rows


def column(rows, name):
    header = rows[0]
    index = header.index(name)
    values = []
    for row in rows[1:]:
        values.append(float(row[index]))
    return values


def mean(values):
    total = 0.0
    for value in values:
        total = total + value
    return total / len(values)
"""
ARTICLE = """\
Honey bees live in colonies of up to sixty thousand workers. Each colony has one queen, who lays as many as two \
thousand eggs a day in summer. The workers are all females, and their tasks change with their age. In the first three \
weeks of their lives they clean the cells, feed the larvae and build the combs of wax. After that they leave the hive \
to collect nectar and pollen from flowers. A worker that has found many flowers dances on the comb, and the direction \
of her dance tells the others where to fly. In winter the bees stay in the hive, form a ball around the queen, and eat \
the honey that they have stored. A strong colony needs about fifteen kilograms of honey to survive until spring."""
PROMPTS = {
    "editing": f"Add a docstring to each function of this code:\n\n```python\n{EDITED}```",
    "summarising": f"Summarise this text:\n\n{ARTICLE}",
    "story": "Tell me a story about a lighthouse keeper who finds a letter in a bottle.",
}
NUM_TOKENS = 150
"""Of each answer that was recorded, at most."""
RUNS: dict[str, tuple[int, ...]] = {
    "editing": (0, 0, 62, 0, 0, 2, 0, 0, 2, *[0] * 13, 48, 0, 0),
    "summarising": (0, 10, 0, 0, 0, 0, 11, 0, 3, 0, 0, 0, 3, 0, 8, 0, 0, 6, 0, 0, 8, 0, 0, 11, 13),
    "story": (0,) * 64,
}
"""Of each text: how many guesses in a row were right, look-up after look-up. Between two there is one token more."""
LONGEST, SHORTEST = 4, 2
"""Of the ends by which a place in the text is found. The newest such place counts."""


def messages_of(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": PROMPTS[text]}]


def num_tokens(text: str) -> int:
    """Of the answer that was recorded."""
    return sum(run + 1 for run in RUNS[text])


def runs_of(prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """How many tokens are guessed rightly, each time that they are looked up: 0 where there is nothing, too."""
    known, runs, done = list(prompt), [], 0
    while done < len(answer):
        place = _place(known)
        run = 0
        while place and done + run < len(answer) and known[place + run] == answer[done + run]:
            run += 1
            if place + run == len(known):
                break
        runs.append(run)
        known += answer[done : done + run + 1]
        done += run + 1
    return runs


def _place(known: Sequence[int]) -> int:
    """Where the end stood before: the position behind it; 0 where it did not."""
    for size in range(LONGEST, SHORTEST - 1, -1):
        end = list(known[-size:])
        for position in range(len(known) - 1, size - 1, -1):
            if list(known[position - size : position]) == end:
                return position
    return 0


def played_back(runs: Sequence[int], chain: Sequence[int]) -> list[int]:
    """A prompt for a model that says a chain, in which its answer is found in just such runs.

    Each stretch begins with the two tokens that are known before it, and ends with a wrong one.
    """
    prompt, at = [], LONGEST
    for number, run in enumerate(runs, 1):
        if run:
            prompt += [*chain[at - SHORTEST : at + run], chain[-number]]
        at += run + 1
    return [*prompt, *chain[:LONGEST]]


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[3]))
    import shardnet

    with shardnet.Cluster.local(1) as cluster:
        model = cluster.load("smollm2-135m-instruct", dtype="float32", standby="none")
        for text in PROMPTS:
            prompt = model.encode(messages_of(text), chat=True)
            [answer] = model.generate([prompt], max_new_tokens=NUM_TOKENS)
            print(answer.text, file=sys.stderr)
            print(f"{text!r}: {tuple(runs_of(prompt, answer.token_ids))}, of {len(prompt)} tokens")


if __name__ == "__main__":
    main()
