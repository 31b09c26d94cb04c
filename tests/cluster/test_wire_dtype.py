"""Hidden states that travel in another dtype than the model computes in, over a whole ring in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, SPLIT, ring_in_process

from shardnet.described.model_sizes import unit_works
from shardnet.errors import BadRequest
from shardnet.launch.files.config_files import load_model_config
from shardnet.models.sizes import profile_model
from shardnet.transport.messages import SamplingOptions, SessionSpec

NUM_TOKENS = 16


def rounded(folder: Path, wire: torch.dtype) -> list[int]:
    """What `transformers` answers where the states behind the last block of each stage are rounded."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def round_it(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(wire).to(torch.float32)

    for block in (SPLIT[0] - 2, SPLIT[0] + SPLIT[1] - 2):
        model.model.layers[block].register_forward_hook(round_it)
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0
        )
    return output[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("wire", ["float32", "bfloat16", "float16"])
def test_what_travels_is_rounded_and_nothing_else(tiny: Path, wire: str) -> None:
    options: dict[str, Any] = {"dtype": "float32", "split": SPLIT, "prefill_chunk_tokens": 4}
    with ring_in_process() as ring, ring.connect() as cluster:
        with cluster.load(tiny, **options, wire_dtype=wire) as model:
            [result] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
            [host] = ring.workers["b"]._stages.hosts()
            assert host.stage is not None and host.stage.shard.dtype == torch.float32
            num_bytes = host.stage.recorder.totals().bytes_in
    num_rows = len(PROMPT) + NUM_TOKENS - 1
    assert num_bytes == num_rows * 64 * getattr(torch, wire).itemsize
    assert result.token_ids == rounded(tiny, getattr(torch, wire))


def test_scores_that_overflow_on_the_way_are_explained() -> None:
    from shardnet.stage.sampling import Sampler

    spec = SessionSpec(1, 8, 2, 2, 4, (), SamplingOptions())
    error = Sampler(spec, torch.float32, torch.float16).not_finite(torch.tensor([float("nan")]))
    assert isinstance(error, BadRequest) and "wire-dtype" in str(error)


def test_plans_reckon_with_what_travels() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=64, num_attention_heads=4)
    sent = profile_model(config, "float32", "tiny").sent_as("bfloat16")
    assert [unit.output_bytes for unit in sent.units] == [128, 128, 128, 8]
    works = unit_works(load_model_config("llama-2-7b"), "float16", bits=4, wire_dtype="float32")
    assert works[0].output_bytes == 4096 * 4 and works[-1].output_bytes == 8
