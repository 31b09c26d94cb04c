"""How a prompt that has the ring to itself is cut into chunks.

A chunk of c tokens takes each stage a + b c seconds. The first one goes through all stages before anything is sampled,
the others follow as fast as the slowest stage takes them: a prompt of n tokens in k = n / c chunks takes

    sum(a + b c) + (k - 1) max(a + b c)

In one piece it lets all stages but one wait, in too many it pays for reading the weights each time. GPipe (Huang et
al., 2019) calls this the bubble of a pipeline. Which stage is the slowest depends on c: where one computes long for
each token and another one reads long for each chunk, small chunks are slow; and stages on one host wait for each other.
So it is reckoned how long the prompt takes in each size that may be, full chunks included, and the quickest is taken.
What a prompt is cut into depends on nothing that changes from run to run, or it would not be computed alike.

Where others are under way, they fill the ring, and chunks are as large as they may be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

LEAST_TOKENS = 16
"""Fewer are multiplied as several single tokens are, which takes as long for each."""
MULTIPLE = 8
"""Chunks are as large as so many tokens, or a few times as many."""
MOST_SIZES = 128
"""So many sizes are reckoned with, about."""
STEP_S = 5e-4
"""What a chunk costs a stage beside its units: to be taken from the inbox, and to be sent on."""
ASSUMED_SHARE = 1 / 16
"""Of what one token takes alone, what each further one of a chunk takes, where no times are known."""


class StageTimes(NamedTuple):
    """Of a stage for a chunk of a prompt."""

    fixed_s: float
    token_s: float

    def seconds(self, num_tokens: int) -> float:
        """For a chunk of so many tokens."""
        return self.fixed_s + num_tokens * self.token_s


class Host(NamedTuple):
    """What computes a stage."""

    name: str
    num_at_once: int = 1
    """So many stages can compute there at the same time: they share its cores."""


def units_read(first_unit: int, last_unit: int, num_units: int) -> range:
    """Of a stage, the units that compute every token of a prompt: the head of the model sees one."""
    return range(first_unit, min(last_unit + 1, max(1, num_units - 1)))


def stage_times(one_s: float, per_token_s: float | None, chunk_tokens: int) -> StageTimes:
    """From what a stage takes for one token, and for each token of a chunk of so many, where that is known."""
    if per_token_s is None:
        return StageTimes(one_s * (1 - ASSUMED_SHARE), one_s * ASSUMED_SHARE)
    if chunk_tokens < 2 or one_s <= per_token_s:
        return StageTimes(0.0, per_token_s)
    token_s = max(0.0, chunk_tokens * per_token_s - one_s) / (chunk_tokens - 1)
    return StageTimes(chunk_tokens * (per_token_s - token_s), token_s)


def chunks_of(num_tokens: int, stages: Sequence[StageTimes], most_tokens: int, hosts: Sequence[Host]) -> list[int]:
    """The sizes of the chunks in which a prompt goes through these stages: all of one size, at most `most_tokens`, but
    for the last, which may be smaller.

    Args:
        hosts: of each stage.
    """
    if num_tokens < 1:
        return []
    size = min(_sizes(most_tokens), key=lambda size: _prompt_s(num_tokens, size, stages, hosts))
    whole, rest = divmod(num_tokens, size)
    return [size] * whole + [rest] * (rest > 0)


def _sizes(most_tokens: int) -> Iterator[int]:
    """Those that may be, the largest first: of equals it is taken."""
    yield most_tokens
    step = MULTIPLE * max(1, most_tokens // (MULTIPLE * MOST_SIZES))
    yield from reversed(range(LEAST_TOKENS, most_tokens, step))


def _prompt_s(num_tokens: int, size: int, stages: Sequence[StageTimes], hosts: Sequence[Host]) -> float:
    """Until a prompt in chunks of a size is through all stages, each of which takes one chunk at a time."""
    num_before, rest = divmod(num_tokens - 1, size)
    lasts_s = [STEP_S + stage.seconds(rest + 1) for stage in stages]
    if not num_before:
        return sum(lasts_s)
    each_s = [STEP_S + stage.seconds(size) for stage in stages]
    prompt_s = through_s = slowest_s = 0.0
    left_s, busy_s = sum(lasts_s), defaultdict[str, float](float)
    for stage_s, last_s, host in zip(each_s, lasts_s, hosts, strict=True):
        through_s, slowest_s = through_s + stage_s, max(slowest_s, stage_s)
        prompt_s = max(prompt_s, through_s + (num_before - 1) * slowest_s + left_s)  # the last one catches up here
        left_s -= last_s
        busy_s[host.name] += (num_before * stage_s + last_s) / host.num_at_once
    return max(prompt_s, *busy_s.values())
