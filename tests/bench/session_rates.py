"""How fast several conversations at once are. Uses what every version of shardnet has."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def rate_of_several(model: Any, prompt: list[int], new: int, num_sessions: int) -> float:
    """Tokens per second of all sessions together, from the last first token to the first last one."""
    turns = [index % len(prompt) for index in range(num_sessions)]
    streams = [model.stream(prompt[turn:] + prompt[:turn], max_new_tokens=new) for turn in turns]
    times: list[list[float]] = [[] for _ in streams]

    def drain(index: int) -> None:
        for _ in streams[index]._session:
            times[index].append(time.perf_counter())

    with ThreadPoolExecutor(num_sessions) as threads:
        list(threads.map(drain, range(num_sessions)))
    start, end = max(one[0] for one in times), min(one[-1] for one in times)
    return sum(start < at <= end for one in times for at in one) / (end - start)
