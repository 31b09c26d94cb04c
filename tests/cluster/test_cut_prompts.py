"""A prompt that has the ring to itself goes through it in smaller chunks, and is answered alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import SPLIT, RingInProcess, answer, blueprint_of, ring_in_process, rings_of

from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.models import Segment, Shard

PROMPT = [5 + index % 90 for index in range(100)]
OPTIONS: dict[str, Any] = {"dtype": "float32", "share_prefixes": False}


def on_hosts_of_their_own(model: Model) -> None:
    """As if each device were on a host of its own, and one that takes its time."""
    rings, blueprint = rings_of(model), blueprint_of(model)
    units = blueprint.files.profile.units
    times = {"decode_unit_s": (0.016,) * len(units), "prefill_unit_s_per_token": (0.001,) * len(units)}
    devices = tuple(replace(device, host=device.name, **times) for device in blueprint.devices)
    rings.blueprint = replace(blueprint, devices=devices)
    rings._sessions.cut = rings.blueprint.cut


def num_hops(ring: RingInProcess) -> int:
    """That have come to the device of the second stage."""
    [host] = ring.workers["b"]._stages.hosts()
    assert host.stage is not None
    return host.stage.recorder.totals().num_messages


def noting_steps(monkeypatch: pytest.MonkeyPatch) -> defaultdict[int, list[int]]:
    """By the first unit of each stage, how many tokens go into each of its steps from now on."""
    sizes, forward = defaultdict[int, list[int]](list), Shard.forward

    def noting(shard: Shard, rows: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        sizes[shard.first_unit].append(len(rows))
        return forward(shard, rows, segments)

    monkeypatch.setattr(Shard, "forward", noting)
    return sizes


def test_it_is_computed_alike_each_time_however_late_messages_are(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the prompt comes twice, as its answer was late."""
    with ring_in_process(speed=20.0) as ring, ring.connect() as cluster:
        with cluster.load(tiny, split=SPLIT, **OPTIONS) as model:
            on_hosts_of_their_own(model)
            whole, sizes = answer(model, PROMPT, 4), noting_steps(monkeypatch)
            for seed in range(6):
                ring.network.scatter(0.5, seed)
                ring.network.drop(COORDINATOR, "a", endpoint="bulk_hop", answers=seed % 2 > 0)
                ring.network.duplicate("*", "*", endpoint="bulk_hop", count=2, skip=seed % 4)
                assert answer(model, PROMPT, 4) == whole
                ring.network.restore()
                assert list(sizes.values()) == [[40, 40, 20, 1, 1, 1]] * len(SPLIT), seed
                sizes.clear()


@pytest.mark.parametrize(("split", "num_chunks"), [(SPLIT, 3), ([1, 4, 1], 1), ([3, 2, 1], 2)])
def test_the_answer_is_the_same(tiny: Path, split: Sequence[int], num_chunks: int) -> None:
    with ring_in_process() as ring, ring.connect() as cluster:
        with cluster.load(tiny, split=[sum(split), 0, 0], **OPTIONS) as model:
            whole = answer(model, PROMPT, 8)
        with cluster.load(tiny, split=split, **OPTIONS) as model:
            on_hosts_of_their_own(model)
            assert answer(model, PROMPT, 8) == whole
            assert num_hops(ring) == num_chunks + 7, "the prompt's chunks, and a token at a time"
        with cluster.load(tiny, split=split, **OPTIONS) as model:
            answers = model.generate([PROMPT, PROMPT[:90]], max_new_tokens=8)
            assert answers[0].token_ids == whole
