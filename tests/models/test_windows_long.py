"""Windows of random sizes in random layers, sessions in random steps: each logit is the whole model's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_models import VARIANTS, TinyModel

WINDOWED = [name for name, (_, sizes) in VARIANTS.items() if sizes.get("sliding_window")]
NUM_TOKENS = 14


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100))
def test_random_windows(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    name = draw.choice(WINDOWED)
    family, sizes = VARIANTS[name]
    sizes = sizes | {"sliding_window": draw.randint(1, NUM_TOKENS)}
    if sizes.get("layer_types"):
        sizes["layer_types"] = [draw.choice(["sliding_attention", "full_attention"]) for _ in range(3)]
    monkeypatch.setitem(VARIANTS, name, (family, sizes))
    tiny = TinyModel(name, tmp_path)
    cut = draw.randint(1, tiny.num_units - 1)
    chain = Chain([tiny.shard(0, cut - 1), tiny.shard(cut, tiny.num_units - 1)])
    done = dict.fromkeys(range(draw.randint(1, 4)), 0)
    while left := [session for session, count in done.items() if count < NUM_TOKENS]:
        sessions = draw.sample(left, draw.randint(1, len(left)))
        step: dict[int, torch.Tensor] = {}
        for session in sessions:
            step[session] = tiny.ids[done[session] :][: draw.choice([1, 1, 1, 2, 3, 7])]
            done[session] += len(step[session])
        expected = tiny.logits[[done[session] - 1 for session in sessions]]
        assert (chain.step(step) - expected).abs().max().item() < TOLERANCE, (name, sizes, done)
