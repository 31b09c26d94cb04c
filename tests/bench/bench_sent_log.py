"""What it costs that a stage keeps what it sends, of the processor time of its decode steps.

    python tests/bench/bench_sent_log.py [--json FILE]

One stage of ten blocks of the shapes of SmolLM2-135M, in float32 and with random weights, whose results come back to it
as its next work. What is timed is the compute thread: all of it, what it keeps, and how it looks what goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig

from shardnet.codecs.rows import codec_named
from shardnet.errors import BadRequest
from shardnet.profiling.random_shard import random_shard
from shardnet.stage import onward
from shardnet.stage.cache import KVCache
from shardnet.stage.sent_log import kept_by
from shardnet.stage.stage import Stage
from shardnet.timeline.recorder import Recorder
from shardnet.transport.messages import Hop, Part, RingId
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

RING = RingId(b"bench", 1)
NUM_SESSIONS = (1, 32)
NUM_STEPS = 400
CONFIG = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
)


class Timed:
    """Calls a function, and adds up the processor time that it takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.total_s = 0.0
        self._function = function

    def __call__(self, *args: Any) -> Any:
        start_s = time.thread_time()
        result = self._function(*args)
        self.total_s += time.thread_time() - start_s
        return result


class Wheel:
    """An outlet that gives the stage its results as its next work, so many times."""

    def __init__(self) -> None:
        self.stage: Stage
        self.is_done = threading.Event()
        self.spent_s = 0.0
        """Processor time of the compute thread, from the first result to the last."""
        self._num_left = NUM_STEPS
        self._start_s = 0.0

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        if self._num_left == NUM_STEPS:
            self._start_s = time.thread_time()
        self.spent_s = time.thread_time() - self._start_s
        self._num_left -= 1
        if self._num_left < 0:
            self.is_done.set()
        else:
            self.feed(tuple(Part(part.session, part.end, 1) for part in parts), rows)

    def feed(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self.stage.put(Hop(RING, 1, parts, rows, "self", 0, self.stage.shard.first_unit), 0)

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        raise AssertionError("nobody has a prompt")

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        raise AssertionError("nobody samples")

    def session_failed(self, session: int, error: BadRequest) -> None:
        raise error

    def failed(self, error: BaseException) -> None:
        raise error


def measure(num_sessions: int) -> dict[str, float]:
    """Processor time of a step, and of that what keeping takes, and looking what goes on. Seconds."""
    shard = random_shard(CONFIG, 11, 20, torch.float32)
    wheel = Wheel()
    codec = codec_named("float32")
    kv = KVCache(shard.kv_layout, shard.dtype, None, kept_by(shard, codec))
    with Stage(shard, kv, Recorder("here", 1), wheel, chunk_tokens=128, num_threads=1, sent_as=codec) as stage:
        wheel.stage = stage
        keep = stage._log.keep = Timed(stage._log.keep)  # type: ignore[method-assign]
        due = onward._due = Timed(onward._due)  # type: ignore[assignment]
        for session in range(num_sessions):
            stage.open_session(SessionSpec(session, NUM_STEPS + 8, 1, 1, NUM_STEPS + 8, (), SamplingOptions()))
        parts = tuple(Part(session, 0, 1) for session in range(num_sessions))
        wheel.feed(parts, torch.randn(num_sessions, CONFIG.hidden_size))
        wheel.is_done.wait()
        onward._due = due._function  # type: ignore[assignment]
    return {
        "step_s": wheel.spent_s / NUM_STEPS,
        "keeping_s": keep.total_s / NUM_STEPS,
        "looking_s": due.total_s / NUM_STEPS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", help="write the figures there")
    options = parser.parse_args()
    figures = {str(num_sessions): measure(num_sessions) for num_sessions in NUM_SESSIONS}
    for num_sessions, figure in figures.items():
        step_s, keeping_s, looking_s = figure["step_s"], figure["keeping_s"], figure["looking_s"]
        print(
            f"{num_sessions:>3} sessions: a step takes {1e3 * step_s:.3f} ms; keeping {1e6 * keeping_s:.1f} us of it "
            f"({100 * keeping_s / step_s:.2f}%), looking what goes on {1e6 * looking_s:.1f} us "
            f"({100 * looking_s / step_s:.2f}%)"
        )
    if options.json:
        about = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"about": about, "sessions": figures}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
