"""A ring in this process behind transformers' interface, and the same model alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import RingInProcess, loaded

from shardnet.cluster import watch
from shardnet.interface.ring_model import RingForCausalLM
from shardnet.policy.membership import Limits


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a real connection shows at once, a watch notices here soon."""
    monkeypatch.setattr(watch, "LIMITS", Limits(ask_every_s=0.02, suspect_after_s=0.3, grace_s=0.02))
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.01)


@pytest.fixture(scope="module")
def whole(tiny: Path) -> Any:
    """transformers' own, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


@pytest.fixture(scope="module")
def ring(tiny: Path) -> Iterator[tuple[RingInProcess, RingForCausalLM]]:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        yield ring, RingForCausalLM(model)


@pytest.fixture
def ringed(ring: tuple[RingInProcess, RingForCausalLM]) -> RingForCausalLM:
    return ring[1]
