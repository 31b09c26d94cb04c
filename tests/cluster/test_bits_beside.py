"""Bits of its own for each unit, as `quality` chooses them, beside all else that a ring promises: losses with what is
kept hot and without, layers that move, guesses by look-up and by a draft, codecs, text that stays on one device. Every
answer is that of one device that holds each unit in the same bits, token for token: of products in C what comes of a
row does not depend on the others of its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chosen_bits import SECONDS, bits_of, make_up_times, measured, of_schemes, planned
from compiled import needs_compiler
from guesses import Oracle
from in_process_ring import PROMPT, RingInProcess, blueprint_of, ring_in_process, rings_of
from processes import wait_until

from shardnet.cluster import standby, watch
from shardnet.cluster.model import Model
from shardnet.device.worker import Worker
from shardnet.loader import ModelFiles, open_model
from shardnet.plan import Plan, stages_from_counts
from shardnet.session import beginnings
from shardnet.stage import front
from shardnet.transport.messages import Hop

pytestmark = [
    pytest.mark.usefixtures("quick_watch"),
    needs_compiler,
]
NUM_TOKENS = 20
NUM_UNITS = 6
PROMPTS = [PROMPT, [40, 41, 42, 40, 41], [7 + 3 * number for number in range(20)]]
GREEDY: dict[str, Any] = {}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.2, "seed": 3}
Schemes = tuple[str, ...]
Texts = Callable[[Schemes], list[list[int]]]


@pytest.fixture(scope="module")
def cache(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what few bits cost: 8 bits nothing, 4 bits twice what is allowed."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDNET_CACHE", str(folder))
        measured(tiny, 0.0, 0.02)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(cache))
    make_up_times(monkeypatch, kernels_are_timed=False)
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)


@contextmanager
def chosen(tiny: Path, num_devices: int = 3, **options: Any) -> Iterator[tuple[RingInProcess, Model]]:
    """A ring whose units are in 8 and in 4 bits."""
    with ring_in_process(num_devices) as ring, ring.connect() as cluster:
        with cluster.load(tiny, quality="1%", prefill_chunk_tokens=4, **options) as model:
            assert set(model.plan.unit_weights) == {"int8", "int4"}
            assert bits_of(ring) == planned(model)
            yield ring, model


def held(tiny: Path, schemes: Schemes) -> ModelFiles:
    return open_model(str(tiny), "bfloat16").held_as(schemes)


@pytest.fixture(scope="module")
def texts(tiny: Path) -> Texts:
    """Of units in these schemes: what one device answers to each prompt, greedy and then sampled."""
    known: dict[Schemes, list[list[int]]] = {}

    def of(schemes: Schemes) -> list[list[int]]:
        if schemes not in known:
            options: dict[str, Any] = {"split": [NUM_UNITS], "prefill_chunk_tokens": 4, "share_prefixes": False}
            with ring_in_process(1) as ring, ring.connect() as cluster:
                with cluster.load(held(tiny, schemes), **options) as model:
                    assert bits_of(ring) == of_schemes(schemes)
                    known[schemes] = [*answers(model, GREEDY), *answers(model, SAMPLED)]
        return known[schemes]

    return of


def answers(model: Model, how: dict[str, Any], **more: Any) -> list[list[int]]:
    return [each.token_ids for each in model.generate(PROMPTS, max_new_tokens=NUM_TOKENS, **how, **more)]


def begin(model: Model, **more: Any) -> list[Any]:
    """All answers at once."""
    return [
        model.stream(prompt, max_new_tokens=NUM_TOKENS, **how, **more)
        for how in (GREEDY, SAMPLED)
        for prompt in PROMPTS
    ]


def ids_of(streams: list[Any]) -> list[list[int]]:
    for stream in streams:
        "".join(stream)
    return [stream.result.token_ids for stream in streams]


def guess_well(patch: pytest.MonkeyPatch, expected: list[list[int]]) -> Oracle:
    """Most of what is guessed is right from now on."""
    oracle = Oracle([prompt + each for prompt, each in zip(PROMPTS * 2, expected, strict=True)], 0.8)
    patch.setattr(front, "Guesser", oracle.guesser)
    return oracle


def test_answers_are_those_of_one_device_with_the_same_bits(tiny: Path, texts: Texts) -> None:
    with chosen(tiny) as (_, model):
        expected = texts(model.plan.unit_weights)
        assert [*answers(model, GREEDY), *answers(model, SAMPLED)] == expected
    assert expected != texts(("bfloat16",) * NUM_UNITS), "bits make a difference here"


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("kept", ["hot", "warm", "cold"])
def test_a_loss_in_the_midst_of_guesses_changes_neither_bits_nor_tokens(
    tiny: Path, texts: Texts, kept: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chosen(tiny, standby=kept) as (ring, model):
        schemes, stages = model.plan.unit_weights, model.plan.stages
        expected = texts(schemes)
        oracle = guess_well(monkeypatch, expected)
        ring.slow_down(0.002)
        if kept != "cold":
            wait_until(lambda: sum(event.event == "standby" for event in model.events) >= len(stages))
            assert bits_of(ring) == planned(model)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        streams = begin(model, speculate="lookup")
        for _ in range(6):
            next(streams[0])
        ring.network.kill(stages[lost].device)
        assert ids_of(streams) == expected
        assert oracle.num_right > 10
        del ring.workers[stages[lost].device]
        assert model.plan.unit_weights == schemes and bits_of(ring) == planned(model)
        assert answers(model, GREEDY) == expected[: len(PROMPTS)]


def test_layers_move_and_take_their_bits_along(tiny: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = ([1, 3, 2], [2, 4, 0], [0, 2, 4], [6, 0, 0], [0, 0, 6], [1, 1, 4], [2, 2, 2])
    with chosen(tiny) as (ring, model):
        schemes = model.plan.unit_weights
        expected = texts(schemes)
        guess_well(monkeypatch, expected)
        ring.slow_down(0.002)
        for some in (counts[:4], counts[3:]):
            streams = begin(model, speculate="lookup")
            next(streams[0])
            for each in some:
                named = [(name, count) for name, count in zip(ring.names, each, strict=True) if count]
                plan = Plan(stages_from_counts([name for name, _ in named], [count for _, count in named]))
                rings_of(model).go_over(lambda *_, plan=plan: plan)
                assert model.plan.unit_weights == schemes and bits_of(ring) == planned(model)
            assert ids_of(streams) == expected


def test_a_newcomer_is_measured_and_takes_over_in_the_same_bits(tiny: Path, texts: Texts) -> None:
    with ring_in_process(1) as ring, ring.connect() as cluster:
        model = cluster.load(tiny, quality="1%", prefill_chunk_tokens=4)
        schemes = model.plan.unit_weights
        ring.join("b")
        cluster.take_in("b")
        wait_until(lambda: "b" in {each.name for each in blueprint_of(model).devices})
        [newest] = [each for each in blueprint_of(model).devices if each.name == "b"]
        own = {"int8": SECONDS["int8"], "int4": SECONDS["int4"]}
        assert newest.decode_unit_s == tuple(own[scheme] for scheme in schemes)
        streams = begin(model)
        next(streams[0])
        cluster.drain("a")
        ring.network.kill("a")
        cluster.let_go("a", "it left")
        assert ids_of(streams) == texts(schemes)
        del ring.workers["a"]
        assert model.plan.devices == ("b",) and model.plan.unit_weights == schemes
        assert bits_of(ring) == planned(model)


def test_a_draft_changes_no_token(tiny: Path, texts: Texts) -> None:
    with chosen(tiny, standby="hot") as (ring, model):
        expected = texts(model.plan.unit_weights)
        assert answers(model, GREEDY, draft=str(tiny)) == expected[: len(PROMPTS)]  # it is loaded meanwhile
        ring.slow_down(0.005)
        streams = begin(model, draft=str(tiny))
        for _ in range(4):
            next(streams[0])
        ring.network.kill(model.plan.stages[1].device)
        assert ids_of(streams) == expected


def test_what_travels_in_more_bits_is_the_same(tiny: Path, texts: Texts) -> None:
    with chosen(tiny, wire="float32") as (ring, model):
        streams = begin(model, speculate="lookup")
        for _ in range(6):
            next(streams[0])
        ring.network.kill(model.plan.stages[1].device)
        assert ids_of(streams) == texts(model.plan.unit_weights)


@pytest.mark.parametrize("wire", ["int8", "fp8"])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_codec_rounds_the_same_whoever_takes_over_at_the_same_cuts(
    tiny: Path, wire: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chosen(tiny, wire=wire) as (_, model):
        schemes, stages = model.plan.unit_weights, model.plan.stages
        expected = [*answers(model, GREEDY), *answers(model, SAMPLED)]
    guess_well(monkeypatch, expected)
    patient = replace(watch.LIMITS, suspect_after_s=3.0)  # whoever is only slow must not be passed over
    monkeypatch.setattr(watch, "LIMITS", patient)
    split = [stage.num_units for stage in stages]
    options: dict[str, Any] = {"wire": wire, "standby": "cold", "prefill_chunk_tokens": 4, "split": [*split, 0]}
    with ring_in_process(len(split) + 1) as ring, ring.connect() as cluster:
        with cluster.load(held(tiny, schemes), **options) as model:
            newest, slow, fast = ring.names[-1], (10.0,) * NUM_UNITS, (0.001,) * NUM_UNITS
            devices = [
                replace(device, decode_unit_s=fast if device.name == newest else slow, prefill_unit_s_per_token=slow)
                for device in blueprint_of(model).devices
            ]
            rings_of(model).blueprint = replace(blueprint_of(model), devices=tuple(devices))
            streams = begin(model, speculate="lookup")
            for _ in range(5):
                next(streams[0])
            ring.network.kill(ring.names[lost])
            assert ids_of(streams) == expected
            assert [stage.num_units for stage in model.plan.stages] == split and newest in model.plan.devices
            del ring.workers[ring.names[lost]]
            assert bits_of(ring) == of_schemes(schemes)


def test_text_stays_where_it_is_to_stay(tiny: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """`private_to`: embedding and head in few bits on one device, to which alone ids come, also after a loss."""
    came: list[tuple[str, bool]] = []
    hop, bulk_hop = Worker.hop, Worker.bulk_hop

    def note(worker: Worker, one: Hop) -> None:
        came.append((worker.name, one.payload.dtype == torch.int64))

    monkeypatch.setattr(Worker, "hop", lambda self, one: (note(self, one), hop(self, one))[1])
    monkeypatch.setattr(Worker, "bulk_hop", lambda self, one: (note(self, one), bulk_hop(self, one))[1])
    with chosen(tiny, placement="even", private_to="b", standby="hot", kv_memory_bytes=4_000_000) as (ring, model):
        expected = texts(model.plan.unit_weights)
        stages = model.plan.stages
        assert stages[0].device == stages[-1].device == "b" and len({stage.device for stage in stages}) > 1
        ring.slow_down(0.002)
        guess_well(monkeypatch, expected)
        streams = begin(model, speculate="lookup")
        for _ in range(6):
            next(streams[0])
        lost = next(stage.device for stage in stages if stage.device != "b")
        ring.network.kill(lost)
        assert ids_of(streams) == expected
        del ring.workers[lost]
        assert bits_of(ring) == planned(model)
    assert {name for name, is_ids in came if is_ids} == {"b"} and len({name for name, _ in came}) > 1
