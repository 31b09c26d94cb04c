"""On an accelerator weights, caches and work lie there, what comes and goes on the CPU.

Fake tensors of torch's stand for one: they have a device and a shape and no numbers, and refuse what a real one does,
an operation on tensors of two devices. What comes out of a real one is compared where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_models import VARIANTS, TinyModel, tiny_model
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from shardnet.loader import load_shard
from shardnet.models import Shard
from shardnet.models.kv import ON_CPU
from shardnet.profiling.compute import compute_device
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept
from shardnet.stage.token_rows import Tokens
from shardnet.transport.messages import Part

PLACE = "standin"
"""The name of the device that fake tensors are on."""
GOES_BY_NUMBERS = (fake_tensor.DynamicOutputShapeException, fake_tensor.DataDependentOutputException)
"""Which experts take a token, how long a text is: there fakes end."""
STEPS = ({0: 7, 1: 2}, {0: 1, 1: 1}, {0: 1, 1: 3}, {1: 1})
"""New tokens of each session: prompts, a bucket, one beside a chunk, one alone."""


def there() -> torch.device:
    return torch.device(PLACE, 0)


@contextmanager
def faked() -> Iterator[None]:
    """What is made in this block has no numbers; what was made before may take part."""
    if torch._C._get_privateuse1_backend_name() != PLACE:
        _setup_privateuseone_for_python_backend(PLACE)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes one on the CPU, and moves it
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)  # single numbers are not reckoned with, either
            with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
                yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def as_if_there(shard: Shard) -> Shard:
    """A shard whose weights are on an accelerator, without numbers."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device=there())
        return made[id(tensor)]

    for unit in shard.units:
        for module in unit.modules.values():
            for part in module.modules():
                for name, parameter in part._parameters.items():
                    if parameter is not None:
                        part._parameters[name] = nn.Parameter(fake(parameter), requires_grad=False)
                for name, buffer in part._buffers.items():
                    part._buffers[name] = None if buffer is None else fake(buffer)
    units = [replace(unit, weights={name: fake(it) for name, it in unit.weights.items()}) for unit in shard.units]
    return Shard(shard.config, shard.family, units, shard.dtype, kv_dtype=shard.kv_dtype)


def fresh(tiny: TinyModel, first: int, last: int, device: torch.device = ON_CPU) -> Shard:
    """One that no other test uses."""
    return load_shard(tiny.files.config, tiny.files.tensors_of(first, last), first, last, "float32", device=device)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_mixes_devices(variant: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = tiny_model(variant, tmp_path_factory)
    last = tiny.num_units - 1
    shards = [fresh(tiny, 0, 1), fresh(tiny, 2, last)]
    with faked():
        chain = Chain([as_if_there(shard) for shard in shards])
        assert {shard.device for shard in chain.shards} == {there()}
        with suppress(*GOES_BY_NUMBERS):
            for step in STEPS:
                logits = chain.step({session: torch.zeros(count, dtype=torch.int64) for session, count in step.items()})
                assert logits.device == ON_CPU and logits.shape == (len(step), tiny.files.config.vocab_size)
        keys = [tensor for cache in chain.caches for extent in cache.extents for tensor in extent.keys.values()]
        assert {tensor.device for tensor in keys} == {there()}


def test_tokens_are_read_from_there_and_written_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    shard = fresh(tiny_model("llama", tmp_path_factory), 1, 2)
    with faked():
        shard = as_if_there(shard)
        kept = Kept(4, torch.float32, 0)
        caches = [KVCache(shard.kv_layout, shard.kv_row_dtype, None, kept, there()) for _ in range(2)]
        sessions = [[cache.open(number, 9) for number in range(2)] for cache in caches]
        parts = [Part(0, 0, 5), Part(1, 0, 3)]
        source, target = (Tokens(parts, own) for own in sessions)
        rows, sent = source.read_blocks(shard.kv_layout, shard.dtype), source.read_sent(4, torch.float32)
        assert rows.device == sent.device == ON_CPU and rows.shape[0] == sent.shape[0] == 8
        target.write_blocks(shard.kv_layout, rows)
        target.write_sent(sent)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_ring_that_is_partly_there_gives_what_the_whole_model_gives(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    gpu = compute_device("cuda:0")
    for variant in VARIANTS:
        tiny = tiny_model(variant, tmp_path_factory)
        last = tiny.num_units - 1
        for places in ((gpu, gpu), (ON_CPU, gpu), (gpu, ON_CPU)):
            chain = Chain([fresh(tiny, 0, 1, places[0]), fresh(tiny, 2, last, places[1])])
            end = 0
            for num_tokens in (7, 4, 1, 1):
                logits = chain.step({0: tiny.ids[end : end + num_tokens]})
                end += num_tokens
                assert (logits[0] - tiny.logits[end - 1]).abs().max().item() < TOLERANCE, (variant, places)
