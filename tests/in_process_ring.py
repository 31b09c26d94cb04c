"""A whole cluster in one process: real shards of a tiny model, real stages and sessions, faults by script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.cluster import COORDINATOR, Cluster
from shardnet.cluster.model import Model
from shardnet.cluster.rings import Rings
from shardnet.device.worker import Worker
from shardnet.transport import InProcessNetwork

PROMPT = [5, 6, 7, 8, 9]
SPLIT = [2, 2, 2]


class RingInProcess:
    """Devices "a", "b", ... of a network that can lose and delay messages; `connect` makes coordinators.

    Args:
        speed: of the network's time: what is sent again after 2 s is so at a speed of 100 after 0.02 s.
        memory_bytes: that each device may use; None for what there is.
    """

    def __init__(self, num_devices: int, speed: float, memory_bytes: int | None) -> None:
        self._memory_bytes = memory_bytes
        self._resources = ExitStack()
        self.network = self._resources.enter_context(InProcessNetwork(speed=speed))
        self.names = [chr(ord("a") + index) for index in range(num_devices)]
        self.workers: dict[str, Worker] = {}
        for name in self.names:
            self.join(name)

    def join(self, name: str) -> Worker:
        """One more device, or another one under the name of one that is gone."""
        worker = self.workers[name] = self._resources.enter_context(
            Worker(num_threads=1, most_memory_bytes=self._memory_bytes)
        )
        worker.attach(self.network.join(name))
        return worker

    def connect(self) -> Cluster:
        """A coordinator. It takes the place of one that was killed."""
        with ExitStack() as resources:
            transport = resources.enter_context(self.network.join(COORDINATOR))
            return Cluster(transport, self.names, resources, None)

    def slow_down(self, seconds: float) -> None:
        """What devices send each other takes so long from now on."""
        for one in self.names:
            for other in self.names:
                self.network.delay(one, other, seconds)

    def num_stages(self) -> int:
        """Stages on all devices."""
        return sum(len(worker._stages.hosts()) for worker in self.workers.values())

    def close(self) -> None:
        self._resources.close()


@contextmanager
def ring_in_process(
    num_devices: int = 3, *, speed: float = 1.0, memory_bytes: int | None = None
) -> Iterator[RingInProcess]:
    ring = RingInProcess(num_devices, speed, memory_bytes)
    try:
        yield ring
    finally:
        ring.close()


def load(cluster: Cluster, model: Path) -> Model:
    """A model of four blocks over three devices: by hand, so that nothing is measured."""
    return cluster.load(model, dtype="float32", split=SPLIT, prefill_chunk_tokens=4)


@contextmanager
def loaded(
    model: Path, split: list[int], *, speed: float = 1.0, **options: Any
) -> Iterator[tuple[RingInProcess, Model]]:
    """A ring of its own for one model, by hand."""
    with ring_in_process(len(split), speed=speed) as ring, ring.connect() as cluster:
        yield ring, cluster.load(model, dtype="float32", split=split, prefill_chunk_tokens=4, **options)


def rings_of(model: Model) -> Rings:
    """What takes a model from one ring to the next."""
    rings = model._deployment._rings
    assert rings is not None
    return rings


def blueprint_of(model: Model) -> Blueprint:
    """What its stages are made from."""
    blueprint = rings_of(model).blueprint
    assert blueprint is not None
    return blueprint


def answer(model: Model, prompt: list[int] = PROMPT, num_tokens: int = 12) -> list[int]:
    """The ids of one greedy answer."""
    [result] = model.generate([prompt], max_new_tokens=num_tokens)
    return result.token_ids


def scored_alone(model_folder: Path, ids: list[int]) -> tuple[list[float], list[int]]:
    """Of each token behind the first, its log-likelihood and the likeliest id, as `transformers` has them: fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    found = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return found.tolist(), logits.argmax(-1).tolist()


def alone(model_folder: Path, prompts: list[list[int]], max_new_tokens: int, **named: str) -> list[list[int]]:
    """What `transformers` answers to each prompt by itself: greedy, fp32. Args: `named` may have a `gguf_file`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, **named)
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0
            )
        answers.append(output[0, len(prompt) :].tolist())
    return answers
