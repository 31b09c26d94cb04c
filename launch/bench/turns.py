"""One turn of a measurement: conversations of a loaded model, and what the clock said of their tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

from shardnet.cluster.model import Model
from shardnet.launch.bench.grid import Point
from shardnet.launch.bench.options import PREFILL
from shardnet.launch.bench.prompts import Prompts
from shardnet.profiling.power import PowerWatch, battery_from_sysfs
from shardnet.session.options import GenerationOptions
from shardnet.session.stream import Stream


@dataclass(frozen=True)
class Turn:
    """What was measured once."""

    tokens_per_s: float
    """Of all conversations together: of the prompt in a turn of prefill, of the answers in all others."""
    first_token_s: float
    """Until the last of the conversations had its first token."""
    gaps_s: tuple[float, ...]
    """Between a conversation's tokens."""
    joules_per_token: float | None
    """Of this machine; None where its power cannot be read, or not so quickly."""
    guesses_checked: int = 0
    """Of all answers together, as in `Generation`."""
    guesses_right: int = 0


def take_turn(model: Model, point: Point, prompts: Prompts, answering: GenerationOptions, *, reads_power: bool) -> Turn:
    """Have so many conversations at once."""
    asked = replace(answering, max_new_tokens=point.new_tokens)
    drawn = [prompts.draw(point.prompt_tokens) for _ in range(point.num_sessions)]
    with PowerWatch(battery_from_sysfs) as power:
        start_s = time.perf_counter()
        streams = [model.stream(prompt, **asked) for prompt in drawn]
        with ThreadPoolExecutor(len(streams)) as threads:
            times_s = list(threads.map(_times, streams))
    first_s = max(times[0] for times in times_s) - start_s
    rate = point.prompt_tokens / first_s if point.what == PREFILL else rate_together(times_s)
    watts = power.active_w if reads_power else None
    gaps_s = tuple(later - earlier for times in times_s for earlier, later in pairwise(times))
    return Turn(rate, first_s, gaps_s, None if watts is None else watts / rate, *_guesses(streams))


def rate_together(times_s: Sequence[Sequence[float]]) -> float:
    """Tokens per second while all conversations answer: from the last first token to the first last one."""
    start_s, end_s = max(times[0] for times in times_s), min(times[-1] for times in times_s)
    if end_s <= start_s:  # too short to overlap
        start_s, end_s = min(times[0] for times in times_s), max(times[-1] for times in times_s)
    num_tokens = sum(start_s < at_s <= end_s for times in times_s for at_s in times)
    return num_tokens / (end_s - start_s)


def _guesses(streams: Sequence[Stream]) -> tuple[int, int]:
    """How many were checked, and right."""
    results = [stream.result for stream in streams]
    return sum(each.guesses_checked for each in results), sum(each.guesses_right for each in results)


def _times(stream: Stream) -> list[float]:
    return [time.perf_counter() for _ in stream.ids()]
