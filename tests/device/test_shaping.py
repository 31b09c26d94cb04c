"""The stages of one device become one, and give units up, in the midst of a conversation, however it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from in_process_ring import PROMPT, alone, load, ring_in_process
from processes import wait_until

from shardnet.device.stage_host import StageHost
from shardnet.device.worker import Worker
from shardnet.errors import BadRequest, ClusterError, PlanNotInForce
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import Hop, Part, RingId, RingStop, StageSpec, Stretch, Tokens, Wanted
from shardnet.transport.session_messages import SamplingOptions, SessionSpec

SOURCE = "source"
NUM_TOKENS = 24
CAPACITY = len(PROMPT) + NUM_TOKENS
EPOCH = b"e" * 16


@pytest.fixture(scope="module")
def specs(tiny: Path) -> tuple[StageSpec, ...]:
    """Of three stages of two units each."""
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, tiny) as model:
        return model._deployment.ring.specs


class OneDevice:
    """All stages of a ring on one device, and the source."""

    def __init__(self, network: InProcessNetwork, specs: tuple[StageSpec, ...]) -> None:
        self.told: dict[int, int] = {}
        self._news = threading.Condition()
        self.source = network.join(SOURCE)
        for endpoint, handler in (
            ("tokens", self._tell),
            ("holds", lambda _: True),
            ("load_progress", lambda *_: None),
        ):
            self.source.expose(endpoint, handler)
        self.worker = Worker(num_threads=1)
        self.worker.attach(network.join("a"))
        stops = [spec.ring[spec.stage]._replace(device="a") for spec in specs]
        own = [
            spec._replace(ring_id=RingId(EPOCH, 1), ring=tuple(stops), source=SOURCE, deployment=1) for spec in specs
        ]
        self.hosts = [self.worker.open_stage(spec) for spec in own]
        for host in self.hosts:
            host.load().result(10)
        self.specs = own

    @property
    def reserved_bytes(self) -> int:
        return self.worker.premises.memory.budget.reserved_bytes

    def begin(self) -> None:
        spec = SessionSpec(1, CAPACITY, len(PROMPT), len(PROMPT), NUM_TOKENS, (), SamplingOptions())
        for host in self.hosts:
            self.worker.open_session(*host.key, spec)
        self.feed(self.hosts[0], 0, PROMPT)

    def feed(self, host: StageHost, position: int, ids: list[int]) -> None:
        part = Part(1, position, len(ids))
        self.worker.bulk_hop(Hop(*host.key, (part,), torch.tensor(ids), SOURCE, 0, 0))

    def wait_for(self, num_tokens: int) -> list[int]:
        with self._news:
            assert self._news.wait_for(lambda: len(self.told) >= num_tokens, timeout=20), self.told
        return [self.told[index] for index in range(num_tokens)]

    def enter(self, version: int, stops: list[RingStop], places: list[tuple[StageHost, int]]) -> RingId:
        """The fence."""
        ring_id = RingId(EPOCH, version)
        beside = [host.stop for host, place in places if place >= len(stops)]
        for host, place in places:
            ring = tuple(stops if place < len(stops) else [*stops, *beside])
            host.adopt(self.specs[0]._replace(ring_id=ring_id, stage=place, ring=ring, tensors={}))
        for host, _ in places:
            host.switch(ring_id).result(10)
        for host, _ in places:
            host.retire(ring_id)
        return ring_id

    def _tell(self, tokens: Tokens) -> None:
        with self._news:
            self.told |= {token.index: token.token_id for token in tokens.tokens}
            self._news.notify_all()


@pytest.fixture
def device(specs: tuple[StageSpec, ...]) -> Iterator[OneDevice]:
    with InProcessNetwork(speed=20.0) as network:
        network.scatter(0.005, 1)
        device = OneDevice(network, specs)
        try:
            yield device
        finally:
            device.worker.close()


def go_on(device: OneDevice, ring_id: RingId) -> None:
    """Of a ring of one stage: the first stage has the ids, or the source."""
    [host] = device.hosts
    [known] = host.standings().result(10)
    host.resend(ring_id, (Wanted(1, known.length),)).result(10)
    ids = [*PROMPT, *device.wait_for(0)]
    with device._news:
        ids = [*known.ids, *(device.told[at] for at in range(len(known.ids) - len(PROMPT), len(device.told)))]
    if known.length < len(ids):
        device.feed(host, known.length, ids[known.length :])


def test_all_stages_of_a_device_become_one_and_the_text_goes_on(device: OneDevice, tiny: Path) -> None:
    weights_bytes = device.reserved_bytes
    device.begin()
    device.wait_for(5)
    first, *others = device.hosts
    stretches = tuple(Stretch(place, 2 * place, 2 * place + 1) for place in range(3))
    ring_id = device.enter(2, [RingStop("a", 0, 5, "float32")], list(zip(device.hosts, range(3), strict=True)))
    shaped = [first.shape(ring_id, stretches) for _ in range(3)]
    assert len({answer.result(10) for answer in shaped}) == 1
    assert device.worker._stages.hosts() == [first]
    assert first.report().totals.num_steps >= 3 * 5, "those of all three"
    device.hosts = [first]
    go_on(device, ring_id)
    assert device.wait_for(NUM_TOKENS) == alone(tiny, [PROMPT], NUM_TOKENS)[0]
    assert first.shape(RingId(EPOCH, 1), (Stretch(0, 0, 1),)).result(10) == shaped[0].result(), "late"
    for other in others:
        other.close().result(10)
    assert first.stage is not None and first.stage.usage()[0] == 1
    device.worker.close_sessions(*first.key, [1])
    assert device.reserved_bytes == weights_bytes
    first.close().result(10)
    assert device.reserved_bytes == 0


def test_what_a_part_of_a_part_has_to_tell_goes_the_way_of_the_whole(device: OneDevice) -> None:
    """It went along the ring in which the second became part of the first, and was told to nobody any more."""
    first, middle, last = device.hosts
    told: list[RingId] = []

    def take(ring_id: RingId, *_: object) -> None:
        if ring_id.plan_version < 4:
            raise PlanNotInForce("that plan is over.")
        told.append(ring_id)

    device.source.expose("session_failed", take)
    stops = [RingStop("a", 0, 1, "float32"), RingStop("a", 2, 5, "float32")]
    ring_id = device.enter(2, stops, [(first, 0), (middle, 1), (last, 2)])
    middle.shape(ring_id, (Stretch(1, 2, 3), Stretch(2, 4, 5))).result(10)
    ring_id = device.enter(3, [RingStop("a", 0, 5, "float32")], [(first, 0), (middle, 1)])
    first.shape(ring_id, (Stretch(0, 0, 1), Stretch(1, 2, 5))).result(10)
    ring_id = device.enter(4, [RingStop("a", 0, 5, "float32")], [(first, 0)])
    for host in (first, middle, last):
        host._outlet.session_failed(1, BadRequest("it has no room."))
    wait_until(lambda: told == [ring_id] * 3, 10)


def test_units_that_are_given_up_free_their_memory(device: OneDevice) -> None:
    whole_bytes = device.reserved_bytes
    sizes = [host.stage.shard.weight_bytes for host in device.hosts if host.stage is not None]
    ring_id = device.enter(2, [RingStop("a", 1, 1, "float32")], [(device.hosts[0], 0)])
    trimmed = device.hosts[0].shape(ring_id, (Stretch(0, 1, 1),)).result(10)
    assert device.reserved_bytes == whole_bytes - sizes[0] + trimmed.weight_bytes
    assert 0 < trimmed.weight_bytes < sizes[0]
    for host in device.hosts:
        host.close().result(10)
    assert device.reserved_bytes == 0


def test_what_cannot_be_shaped_is_refused(device: OneDevice) -> None:
    first, middle, _ = device.hosts
    with pytest.raises(PlanNotInForce, match="a stage of plan 1, and not of plan 2"):
        first.shape(RingId(EPOCH, 2), (Stretch(0, 0, 0),)).result(10)
    ring_id = device.enter(3, [RingStop("a", 0, 5, "float32")], [(first, 0), (middle, 1)])
    with pytest.raises(ClusterError, match="has no stage 7 of plan 3"):
        first.shape(ring_id, (Stretch(0, 0, 1), Stretch(7, 2, 3))).result(10)
    with pytest.raises(BadRequest, match="cannot be trimmed to units 2 to 4"):
        middle.shape(ring_id, (Stretch(1, 2, 4),)).result(10)
    wait_until(lambda: first.stage is not None and first.stage.shard.num_units == 2, 5)
