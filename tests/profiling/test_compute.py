"""Where a device computes: what may be asked for, what there is of memory, and how it is told apart."""

from __future__ import annotations

import pytest
import torch

from shardnet.errors import BadRequest, UsageError
from shardnet.process.compute import require_form
from shardnet.profiling.compute import (
    accelerator_name,
    compute_device,
    compute_memory,
    device_kind,
    return_cached,
    usable_compute_bytes,
)
from shardnet.profiling.hardware import describe_hardware
from shardnet.profiling.memory import machine_memory


@pytest.mark.parametrize(
    "compute", ["", "gpu", "cuda", "cuda:", "cuda:00", "cuda:x", "cuda:-1", "cuda:123", "cpu:0", "CUDA:0", "cuda:0 "]
)
def test_what_is_no_place_is_refused(compute: str) -> None:
    with pytest.raises(BadRequest, match="cpu, cuda:0"):
        require_form(compute)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_an_accelerator_that_is_not_there_is_refused() -> None:
    for compute in ("cuda:0", "cuda:7"):
        with pytest.raises(UsageError, match=f"{compute}: .*CUDA"):
            compute_device(compute)


def test_the_processor_has_the_machines_memory() -> None:
    assert compute_device("cpu") == torch.device("cpu") and accelerator_name("cpu") == ""
    assert compute_memory("cpu").total_bytes == machine_memory().total_bytes
    assert 0 < usable_compute_bytes("cpu") < machine_memory().total_bytes


def test_metal_offers_no_more_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 GiB it may take 48, whoever has taken the other ones."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**60)
    assert 0 < usable_compute_bytes("mps") < machine_memory().total_bytes
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**30)
    assert usable_compute_bytes("mps") < 2**30


def test_profiles_of_the_processor_and_of_accelerators_do_not_stand_for_each_other() -> None:
    kinds = {device_kind(1, compute) for compute in ("cpu", "cuda:0", "cuda:1")}
    assert len(kinds) == 3
    here = describe_hardware()
    assert here.accelerator == "" and "accelerator" in here.as_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_cuda_device_has_memory_and_a_name() -> None:
    before = usable_compute_bytes("cuda:0")
    held = torch.empty(2**30, dtype=torch.uint8, device=compute_device("cuda:0"))
    assert before - usable_compute_bytes("cuda:0") >= held.nbytes * 0.9
    del held
    assert usable_compute_bytes("cuda:0") >= before * 0.99, "what torch keeps for itself is free"
    before_kept = torch.cuda.mem_get_info("cuda:0")[0]
    return_cached("cuda:0")
    assert torch.cuda.mem_get_info("cuda:0")[0] >= before_kept + 2**29, "now it is free for others"
    assert accelerator_name("cuda:0") and describe_hardware(compute="cuda:0").accelerator
