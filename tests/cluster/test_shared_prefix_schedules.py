"""Random conversations that go on from each other, over a ring that loses memory, devices and messages: whatever
sessions take over from others, every text is that of the model by itself.

A schedule follows from its number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fault_schedules import Fault, FaultSchedule, cut_anywhere, put_into_force
from in_process_ring import RingInProcess, ring_in_process, rings_of

from shardnet.cluster.model import Model
from shardnet.errors import KVMemorySpent
from shardnet.session import beginnings, sessions
from shardnet.session.stream import Stream

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_SCHEDULES, NUM_TURNS = 10, 10
SPLIT = [1, 2, 2, 1]
VOCABULARY = 250
MOST_PROMPT = 60
ENDPOINTS = ("hop", "bulk_hop", "tokens", "open_session", "close_sessions")


@pytest.fixture(scope="module")
def expected(tiny: Path) -> Callable[[list[int], int], list[int]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)

    def answer(prompt: list[int], num_tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        options: dict[str, Any] = {"max_new_tokens": num_tokens, "do_sample": False, "pad_token_id": 0}
        with torch.inference_mode():
            output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return output[0, len(prompt) :].tolist()

    return answer


class Conversations:
    """Turns of a chat, other chats with the same beginning, the same prompt again, one beside the other."""

    def __init__(
        self,
        ring: RingInProcess,
        model: Model,
        expected: Callable[[list[int], int], list[int]],
        seed: int,
        most_lost: int,
    ) -> None:
        self.random = Random(seed)
        self.ring = ring
        self.model = model
        self.expected = expected
        self.texts: list[list[int]] = [[5, 6, 7, 8, 9, 10, 11, 12]]
        self.under_way: list[tuple[list[int], int, Stream]] = []
        self.num_shared = 0
        self.most_lost = most_lost

    def begin(self) -> None:
        text = self.random.choice(self.texts[-4:])
        beginning = text[: self.random.choice((len(text), len(text), self.random.randint(1, len(text))))]
        new = [self.random.randrange(VOCABULARY) for _ in range(self.random.randint(0, 9))]
        prompt, num_tokens = (beginning + new)[-MOST_PROMPT:], self.random.randint(1, 12)
        try:
            stream = self.model.stream(prompt, max_new_tokens=num_tokens)
        except KVMemorySpent:
            assert self.under_way, "what has stayed of others makes room"
            return
        self.num_shared += stream._session.num_shared  # type: ignore[attr-defined]
        self.under_way.append((prompt, num_tokens, stream))

    def end(self) -> None:
        prompt, num_tokens, stream = self.under_way.pop(self.random.randrange(len(self.under_way)))
        right = self.expected(prompt, num_tokens)
        num_read = self.random.choice((None, None, self.random.randint(0, num_tokens)))
        if num_read is None:
            "".join(stream)
            assert stream.result.token_ids == right
        else:
            for _ in range(num_read):
                next(stream, "")
            stream.close()
            told = stream.result.token_ids
            assert told == right[: len(told)]
        self.texts.append(prompt + right)

    def drop(self) -> None:
        """Somebody needs memory on one device."""
        for host in self.ring.workers[self.random.choice(sorted(self.model.plan.devices))]._stages.hosts():
            if host.stage is not None:
                host.stage.kv.drop_recent()

    def lose(self) -> None:
        if self.most_lost:
            self.most_lost -= 1
            self.ring.network.kill(self.random.choice(sorted(self.model.plan.devices)))

    def renew(self) -> None:
        rings_of(self.model).renew()


@pytest.mark.parametrize("seed", range(NUM_SCHEDULES))
def test_every_text_is_right_whatever_is_shared(
    tiny: Path, expected: Callable[[list[int], int], list[int]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sessions, "parts_of", cut_anywhere)
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)
    monkeypatch.setattr(beginnings, "LEAST_WAITED", 4 if seed % 3 else 64)
    random = Random(seed)
    options: dict[str, Any] = {"standby": random.choice(("hot", "cold"))}
    is_short_of_memory = seed % 2 == 1  # others could not take over then
    if is_short_of_memory:
        options["kv_memory_bytes"] = random.randint(120, 300) * 600
    with ring_in_process(len(SPLIT), speed=50.0) as ring, ring.connect() as cluster:
        model = cluster.load(tiny, dtype="float32", split=SPLIT, prefill_chunk_tokens=4, **options)
        faults = [
            Fault(random.choice(("drop", "drop answers", "duplicate")), "*", "*", endpoint, 1, random.randint(0, 30))
            for endpoint in random.sample(ENDPOINTS, 3)
        ]
        put_into_force(ring.network, FaultSchedule(seed, tuple(faults), random.choice((0.0, 0.1)), 0))
        with model:
            talk = Conversations(ring, model, expected, seed, 0 if is_short_of_memory else 2)
            for _ in range(NUM_TURNS):
                talk.begin()
                if random.random() < 0.3 and len(talk.under_way) < 3:
                    continue
                random.choices((talk.drop, talk.lose, talk.renew, lambda: None), (2, 1, 1, 6))[0]()
                if talk.under_way:
                    talk.end()
            while talk.under_way:
                talk.end()
            assert talk.num_shared > 0
