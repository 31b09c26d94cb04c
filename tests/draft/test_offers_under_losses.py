"""Whatever is offered at any moment, right, wrong, old or for another text, and whatever is lost meanwhile and whoever
takes over: sessions have the very tokens that they have without a draft.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import follow_schedules
import loss_schedules
import pytest
from bare_ring import BareRing, key_for_offers
from in_process_ring import load, ring_in_process
from loss_schedules import REQUESTS, SPEED, answers
from tiny_text_model import save_text_model

from shardnet.errors import ShardnetError
from shardnet.stage import front
from shardnet.transport import InProcessNetwork
from shardnet.transport.listener_messages import digest
from shardnet.transport.messages import StageSpec
from shardnet.transport.offer_messages import Offer

DRAFTED = [each._replace(sampling=each.sampling._replace(speculate="draft")) for each in REQUESTS]
NUM_LOSSES = 12
NUM_FOLLOWED = 8
EVERY_S = 0.001


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageSpec, ...]:
    """Of three stages."""
    tiny = save_text_model(tmp_path_factory.mktemp("tiny"))
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, tiny) as model:
        return model._deployment.ring.specs


@pytest.fixture(scope="module")
def expected(specs: tuple[StageSpec, ...]) -> list[list[int]]:
    return answers(specs, REQUESTS)


@pytest.fixture
def num_guessed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each step with guesses at a first stage, how many there were."""
    found: list[int] = []
    tags_of = front.tags_of

    def noted(key: bytes, branch: int, position: int, token_ids: Sequence[int]) -> bytes:
        found.append(len(token_ids))
        return tags_of(key, branch, position, token_ids)

    monkeypatch.setattr(front, "tags_of", noted)
    return found


@contextmanager
def offering(ring: BareRing, expected: list[list[int]], seed: int) -> Iterator[None]:
    """In the block, offers for all sessions come to the first stage, wherever that is."""
    is_over = threading.Event()
    thread = threading.Thread(target=offer_until, args=(ring, expected, Random(seed), is_over))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def offer_until(ring: BareRing, expected: list[list[int]], random: Random, is_over: threading.Event) -> None:
    texts = {tuple(request.prompt): [*request.prompt, *ids] for request, ids in zip(REQUESTS, expected, strict=True)}
    while not is_over.is_set():
        for session, request in list(ring.requests.items()):
            offer_once(ring, session, len(request.prompt), texts[tuple(request.prompt)], random)
        time.sleep(EVERY_S)


def offer_once(ring: BareRing, session: int, num_prompt: int, text: list[int], random: Random) -> Any:
    position = random.randrange(max(num_prompt - 3, 0), len(text))
    ids = [each if random.random() < 0.85 else (each + 1) % 90 for each in text[position : position + 9]]
    before = digest(text[:position]) + (random.random() < 0.1)
    offer = Offer(key_for_offers(session), position, before, tuple(ids))
    try:
        return ring._transport.post(ring.devices[0], "offer", offer)
    except ShardnetError:  # it is lost
        return None


def test_tokens_are_those_without_offers(
    specs: tuple[StageSpec, ...], expected: list[list[int]], num_guessed: list[int]
) -> None:
    for seed in range(4):
        with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
            network.scatter(0.5, seed)
            with offering(ring, expected, seed):
                for request in DRAFTED:
                    ring.start(request)
                assert list(ring.answers().values()) == expected
    assert sum(num_guessed) > 20


@pytest.mark.parametrize("group", range(3))
def test_a_loss_finds_no_offer(specs: tuple[StageSpec, ...], expected: list[list[int]], group: int) -> None:
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        for seed in range(group, NUM_LOSSES, 3):
            schedule = loss_schedules.schedule_of(100 + seed)
            with offering(ring, expected, seed):
                assert loss_schedules.play(ring, schedule, DRAFTED) == expected, schedule
            ring.end_sessions()


@pytest.mark.parametrize("group", range(2))
def test_a_follower_copies_no_offer(specs: tuple[StageSpec, ...], expected: list[list[int]], group: int) -> None:
    for seed in range(group, NUM_FOLLOWED, 2):
        schedule = follow_schedules.schedule_of(100 + seed)
        with (
            InProcessNetwork(speed=SPEED) as network,
            BareRing(network, specs) as ring,
            offering(ring, expected, seed),
        ):
            assert follow_schedules.play(ring, schedule, DRAFTED) == expected, schedule
