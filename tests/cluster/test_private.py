"""The text stays on one device: it holds embedding and head, also after a loss, and what others get is no text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, alone, answer, ring_in_process, rings_of
from processes import wait_until

from shardnet.cluster import standby
from shardnet.cluster.cluster import Cluster
from shardnet.cluster.load_options import LoadOptions
from shardnet.device.worker import Worker
from shardnet.errors import BadRequest, DoesNotFit, ShardnetError
from shardnet.transport.messages import Copied, CopyWanted, Hop, StageKey

NUM_TOKENS = 16
KV_BYTES, HALF_BYTES = 400_000, 700_000
"""Room for some of the units, and not for all."""


@pytest.fixture(autouse=True)
def quick(quick_watch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """Of each hop that comes to a device: its name, and whether ids came."""
    found: list[tuple[str, bool]] = []
    hop, bulk_hop = Worker.hop, Worker.bulk_hop

    def note(worker: Worker, hop: Hop) -> None:
        found.append((worker.name, hop.payload.dtype == torch.int64))

    monkeypatch.setattr(Worker, "hop", lambda self, one: (note(self, one), hop(self, one))[1])
    monkeypatch.setattr(Worker, "bulk_hop", lambda self, one: (note(self, one), bulk_hop(self, one))[1])
    yield found


def load(cluster: Cluster, tiny: Path, **options: Any) -> Any:
    common = {"dtype": "float32", "placement": "auto", "kv_memory_bytes": KV_BYTES, "prefill_chunk_tokens": 4}
    return cluster.load(tiny, private_to="b", **(common | options))


def ends_of(model: Any) -> tuple[str, str, int]:
    stages = model.plan.stages
    return stages[0].device, stages[-1].device, len({stage.device for stage in stages})


@pytest.mark.parametrize("lost", ["a", "c", "d"])
def test_no_ids_come_to_another_device(tiny: Path, came: list[tuple[str, bool]], lost: str) -> None:
    with ring_in_process(4, memory_bytes=HALF_BYTES) as ring, ring.connect() as cluster, load(cluster, tiny) as model:
        assert ends_of(model)[:2] == ("b", "b") and ends_of(model)[2] > 1
        expected = alone(tiny, [PROMPT], NUM_TOKENS)[0]
        assert answer(model, num_tokens=NUM_TOKENS) == expected
        ring.network.kill(lost)
        assert answer(model, num_tokens=NUM_TOKENS) == expected
        assert ends_of(model)[:2] == ("b", "b") and lost not in model.plan.devices
    assert {name for name, is_ids in came if is_ids} == {"b"}
    assert {name for name, is_ids in came if not is_ids} >= {"b"} and len({name for name, _ in came}) > 1


def test_without_that_device_the_model_is_over(tiny: Path) -> None:
    with ring_in_process(3, memory_bytes=HALF_BYTES) as ring, ring.connect() as cluster, load(cluster, tiny) as model:
        answer(model)
        ring.network.kill("b")
        with pytest.raises(ShardnetError, match="stay on b"):
            answer(model)


def test_others_keep_no_text_ready(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hot standby copies what stages know of conversations: ids too, of those with embedding or head."""
    copied: list[tuple[str, bool]] = []
    copy = Worker.copy_sessions

    def noting(self: Worker, key: StageKey, wanted: CopyWanted) -> Any:
        copied.append((self.name, wanted.first_unit == 0 or wanted.last_unit == 5))
        return copy(self, key, wanted)

    monkeypatch.setattr(Worker, "copy_sessions", noting)
    with ring_in_process(3) as ring, ring.connect() as cluster:
        with load(cluster, tiny, standby="hot", placement="even") as model:
            wait_until(lambda: any(event.event == "standby" for event in model.events))
            answer(model)
            wait_until(lambda: bool(copied))
            ready = rings_of(model).standby
            assert ready is not None
            assert not any(stage.first_unit == 0 or stage.last_unit == 5 for stage in ready.ready)
    assert not any(has_text for _, has_text in copied)


def test_units_beside_the_ends_are_copied_without_text(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages that have embedding and head have other units, too: who keeps those ready was told the answer once,
    and the keys by which guesses and tokens are known.
    """
    answers: list[tuple[CopyWanted, Copied]] = []
    copy = Worker.copy_sessions

    def noting(self: Worker, key: StageKey, wanted: CopyWanted) -> Any:
        copied = copy(self, key, wanted)
        copied.add_done_callback(lambda done: answers.append((wanted, done.result())))
        return copied

    monkeypatch.setattr(Worker, "copy_sessions", noting)
    asked = {"speculate": "lookup", "repetition_penalty": 1.2}
    with ring_in_process(3) as ring, ring.connect() as cluster:
        with load(cluster, tiny, standby="hot", placement="even", kv_memory_bytes=4_000_000) as model:
            wait_until(lambda: any(event.event == "standby" for event in model.events))
            with model.stream(PROMPT, max_new_tokens=1000, **asked) as stream:
                next(stream)
                wait_until(lambda: any(copied.parts for _, copied in list(answers)))
                wait_until(lambda: any(wanted.held for wanted, _ in list(answers)[-4:]))
    specs = [spec for _, copied in answers for spec in copied.opened]
    assert specs and all(not (spec.guess_key or spec.offer_key or spec.prompt_ids or spec.listener) for spec in specs)
    states = [state for _, copied in answers for state in copied.sessions]
    assert states and all(not (state.sampled or state.came) for state in states)


def test_what_cannot_be_is_one_sentence(tiny: Path) -> None:
    with pytest.raises(BadRequest, match="no effect on the placement spread"):
        LoadOptions(private_to="b")
    with pytest.raises(BadRequest, match="no effect on a split"):
        LoadOptions(private_to="b", split=[1, 2])
    with pytest.raises(BadRequest, match="private_to is the name of a device"):
        LoadOptions(private_to=" ", placement="auto")
    with ring_in_process(2) as ring, ring.connect() as cluster:
        with pytest.raises(DoesNotFit, match="The text is to stay on z, which is not there"):
            cluster.load(tiny, private_to="z", placement="auto")
