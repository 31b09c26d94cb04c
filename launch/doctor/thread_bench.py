"""Which number of threads pays on this machine, by blocks that belong to no model. The rule is that of profiles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardnet.process.imports import importing
from shardnet.profiling.cores import max_threads
from shardnet.progress import Progress

if TYPE_CHECKING:
    from shardnet.models import Shard
    from shardnet.profiling.measurement import ThreadTrial

NUM_BLOCKS = 2
"""100 MB, which is more than most processors' caches hold: decoding is bound by reading weights."""
CONFIG = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "vocab_size": 8,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
}
"""As `config.json` has it, with all that a light device, which knows no defaults, needs."""
SECONDS_EACH = 0.3
"""Of one number of threads in one of its three trials."""


@dataclass(frozen=True)
class ThreadSpeed:
    """What one number of threads gives, in float32."""

    threads: int
    decode_bytes_per_s: float
    """Weights read in decoding a token."""
    prefill_flops: float
    """Multiplications and additions per second with many rows, as in prefill."""


def measure_threads(progress: Progress) -> tuple[int, list[ThreadSpeed]]:
    """The number that pays, and how fast each is that was tried; takes about a second each."""
    with importing():
        import torch

        from shardnet.profiling.threads import choose_threads, thread_counts, try_threads
        from shardnet.profiling.timing import Clock
        from shardnet.stage.pace import own_pace

    before = torch.get_num_threads()
    try:
        shard = _made_up_blocks()
        max_seconds = 3 * SECONDS_EACH * len(thread_counts(max_threads()))
        clock = Clock("timing threads", time.perf_counter(), max_seconds, progress)
        trials = try_threads(shard, own_pace, clock)
        clock.end()
    finally:
        torch.set_num_threads(before)
    return choose_threads(trials), [_speed(trial, shard) for trial in trials]


def _made_up_blocks() -> Shard:
    import torch

    from shardnet.models.plain_config import PlainConfig
    from shardnet.profiling.random_shard import random_shard

    return random_shard(PlainConfig(CONFIG), 1, NUM_BLOCKS, torch.float32)


def _speed(trial: ThreadTrial, shard: Shard) -> ThreadSpeed:
    from shardnet.profiling.threads import PREFILL_TOKENS

    block_bytes = shard.weight_bytes / shard.num_units
    prefill_flops = 2 * PREFILL_TOKENS * block_bytes / shard.dtype.itemsize / trial.prefill_s
    return ThreadSpeed(trial.num_threads, block_bytes / trial.decode_s, prefill_flops)
