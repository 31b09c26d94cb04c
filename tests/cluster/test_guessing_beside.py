"""Guessed tokens, weights of few bits and codecs beside all else that a ring promises: stop strings, text that stays on
one device, shared beginnings, losses with what is kept hot and without, scores, many sessions that are closed at any
moment; and nothing of it is left behind.
"""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from compiled import needs_compiler
from guesses import Oracle
from in_process_ring import PROMPT, RingInProcess, blueprint_of, loaded, ring_in_process, rings_of
from processes import wait_until

from shardnet.cluster import standby
from shardnet.cluster.model import Model
from shardnet.device.worker import Worker
from shardnet.plan import Plan, stages_from_counts
from shardnet.session import beginnings
from shardnet.speculation.guesser import Guesser
from shardnet.stage import front
from shardnet.stage.live_session import LiveSession
from shardnet.transport.messages import Hop

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_TOKENS = 24
SPLIT = [2, 2, 2]
PROMPTS = [PROMPT, [40, 41, 42, 40, 41], [7 + 3 * number for number in range(20)]]
HELD = ("float32", "int4", "int8", "w8a8")
GREEDY: dict[str, Any] = {}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.2, "seed": 3}
Texts = Callable[[str], list[list[int]]]
LOOKING_UP: dict[str, Any] = {"speculate": "lookup"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)


@pytest.fixture(scope="module")
def texts(tiny: Path) -> Texts:
    """Of weights that are held so: what is answered to each prompt, greedy and then sampled, by one device."""
    known: dict[str, list[list[int]]] = {}

    def of(held: str) -> list[list[int]]:
        if held not in known:
            with loaded(tiny, [6], weights=held, share_prefixes=False) as (_, model):
                known[held] = [*answers(model, GREEDY), *answers(model, SAMPLED)]
        return known[held]

    return of


def answers(model: Model, how: dict[str, Any], **more: Any) -> list[list[int]]:
    return [each.token_ids for each in model.generate(PROMPTS, max_new_tokens=NUM_TOKENS, **how, **more)]


def guess_well(patch: pytest.MonkeyPatch, texts: list[list[int]], share: float = 0.8) -> Oracle:
    """Most of what is guessed is right from now on."""
    oracle = Oracle([prompt + each for prompt, each in zip(PROMPTS * 2, texts, strict=True)], share)
    patch.setattr(front, "Guesser", oracle.guesser)
    return oracle


def slow_down(ring: RingInProcess, seconds: float = 0.002) -> None:
    for one in ring.names:
        for other in ring.names:
            ring.network.delay(one, other, seconds)


@pytest.mark.parametrize(
    ("held", "split"), [*((held, SPLIT) for held in HELD), *(("int4", split) for split in ([6], [1, 4, 1], [1] * 6))]
)
def test_every_split_gives_the_text_of_one_device(
    tiny: Path, texts: Texts, held: str, split: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(held)
    with loaded(tiny, split, weights=held) as (_, model):
        for share in (None, 0.7):
            oracle = guess_well(monkeypatch, expected, share) if share else None
            assert [*answers(model, GREEDY, **LOOKING_UP), *answers(model, SAMPLED, **LOOKING_UP)] == expected
        assert oracle is not None and oracle.num_right > 20


@pytest.mark.parametrize(
    ("held", "kept"), [("float32", "hot"), ("float32", "cold"), ("int4", "hot"), ("int4", "warm"), ("int8", "cold")]
)
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_loss_in_the_midst_of_guesses_changes_no_token(
    tiny: Path, texts: Texts, held: str, kept: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(held)
    oracle = guess_well(monkeypatch, expected)
    with loaded(tiny, SPLIT, weights=held, standby=kept) as (ring, model):
        slow_down(ring)
        if kept != "cold":
            wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        streams = [
            model.stream(prompt, max_new_tokens=NUM_TOKENS, **LOOKING_UP, **how)
            for how in (GREEDY, SAMPLED)
            for prompt in PROMPTS
        ]
        for _ in range(6):
            next(streams[0])
        ring.network.kill(lost)
        for stream in streams:
            "".join(stream)
        assert [stream.result.token_ids for stream in streams] == expected
        assert oracle.num_right > 10
        num_guessed = oracle.num_guessed
        assert answers(model, GREEDY, **LOOKING_UP) == expected[: len(PROMPTS)]
        assert oracle.num_guessed > num_guessed, "and it goes on guessing"


@pytest.mark.parametrize("held", ["float32", "int4"])
def test_layers_move_in_the_midst_of_guesses(
    tiny: Path, texts: Texts, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages give up units and get those of others, at either end and in between, while an answer is made."""
    expected = texts(held)
    oracle = guess_well(monkeypatch, expected)
    counts = ([1, 3, 2], [2, 4, 0], [0, 2, 4], [6, 0, 0], [0, 0, 6], [1, 1, 4], [2, 2, 2])
    with loaded(tiny, SPLIT, weights=held) as (ring, model):
        slow_down(ring)
        for number in range(4):
            streams = [
                model.stream(prompt, max_new_tokens=NUM_TOKENS, **LOOKING_UP, **how)
                for how in (GREEDY, SAMPLED)
                for prompt in PROMPTS
            ]
            next(streams[0])
            for each in counts[number : number + 4]:
                named = [(name, count) for name, count in zip(ring.names, each, strict=True) if count]
                plan = Plan(stages_from_counts([name for name, _ in named], [count for _, count in named]))
                rings_of(model).go_over(lambda *_, plan=plan: plan)
            for stream in streams:
                "".join(stream)
            assert [stream.result.token_ids for stream in streams] == expected
    assert oracle.num_right > 40


def test_who_copies_the_first_stage_of_two_guesses_on(
    tiny: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had heard of the session from the second of them, which has no key for guesses: it made none any more."""
    oracle = guess_well(monkeypatch, texts("float32"))
    with loaded(tiny, [*SPLIT, 0]) as (ring, model):
        slow_down(ring, 0.005)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **LOOKING_UP)
        next(stream)
        plan = Plan(stages_from_counts(["d", "c"], [4, 2]))
        assert rings_of(model).go_over(lambda *_: plan)
        assert len(stream._session.answer) < NUM_TOKENS - 5  # type: ignore[attr-defined]
        num_guessed = oracle.num_guessed
        "".join(stream)
        assert stream.result.token_ids == texts("float32")[0]
        assert oracle.num_guessed > num_guessed


@pytest.mark.parametrize("wire", ["int8", "fp8", "bfloat16"])
@pytest.mark.parametrize("lost", ["a", "b", "c", ""])
def test_a_codec_rounds_the_same_with_guesses(
    tiny: Path, wire: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes over at the same cuts."""
    with loaded(tiny, SPLIT, wire=wire) as (_, model):
        expected = [*answers(model, GREEDY), *answers(model, SAMPLED)]
    oracle = guess_well(monkeypatch, expected)
    with loaded(tiny, [*SPLIT, 0], wire=wire, standby="cold") as (ring, model):
        rings, slow, fast = rings_of(model), (10.0,) * 6, (0.001,) * 6
        devices = [
            replace(device, decode_unit_s=fast if device.name == "d" else slow, prefill_unit_s_per_token=slow)
            for device in blueprint_of(model).devices
        ]
        rings.blueprint = replace(blueprint_of(model), devices=tuple(devices))
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **LOOKING_UP)
        for _ in range(5):
            next(stream)
        if lost:
            ring.network.kill(lost)
        "".join(stream)
        assert [stage.units for stage in model.plan.stages] == ["0-1", "2-3", "4-5"]
        assert stream.result.token_ids == expected[0]
        assert [*answers(model, GREEDY, **LOOKING_UP), *answers(model, SAMPLED, **LOOKING_UP)] == expected
    assert oracle.num_right > 40


@pytest.mark.parametrize("held", ["float32", "int4"])
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_stop_string_within_a_run_that_was_guessed_ends_the_answer_there(
    tiny: Path, texts: Texts, held: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(tiny, SPLIT, weights=held) as (ring, model):
        whole = [model.generate([each], max_new_tokens=NUM_TOKENS)[0] for each in PROMPTS]
        guess_well(monkeypatch, texts(held), share)
        for prompt, plain in zip(PROMPTS, whole, strict=True):
            for place in range(2, min(len(plain.text) - 2, 12), 3):
                options: dict[str, Any] = {"stop": plain.text[place : place + 2], "max_new_tokens": NUM_TOKENS}
                [expected] = model.generate([prompt], **options)
                [found] = model.generate([prompt], **options, **LOOKING_UP)
                assert (found.text, found.token_ids) == (expected.text, expected.token_ids)
                assert found.finish_reason == expected.finish_reason == "stop"
                turn = prompt + found.token_ids
                [second] = model.generate([turn], max_new_tokens=8, **LOOKING_UP)
                assert second.token_ids == model.generate([turn], max_new_tokens=8)[0].token_ids
        assert is_empty(ring, model)


def is_empty(ring: RingInProcess, model: Model) -> bool:
    """Whether stages have no open session, and nothing is reserved but what others can have."""
    model._deployment.sessions.settle()
    caches = [
        host.stage.kv for worker in ring.workers.values() for host in worker._stages.hosts() if host.stage is not None
    ]
    return all(len(kv) == 0 and kv.reserved_bytes == 0 for kv in caches)


def test_guesses_tell_nobody_what_a_text_says(tiny: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    """`private_to`: neither ids nor what tells them come to another device, also after a loss."""
    expected = texts("int4")
    oracle = guess_well(monkeypatch, expected)
    came: list[tuple[str, bool]] = []
    keys: list[tuple[str, bytes]] = []
    hop, bulk_hop, open_session = Worker.hop, Worker.bulk_hop, Worker.open_session

    def note(worker: Worker, one: Hop) -> None:
        came.append((worker.name, one.payload.dtype == torch.int64))

    def opening(worker: Worker, *place: Any) -> Any:
        keys.append((worker.name, place[-1].guess_key))
        return open_session(worker, *place)

    monkeypatch.setattr(Worker, "hop", lambda self, one: (note(self, one), hop(self, one))[1])
    monkeypatch.setattr(Worker, "bulk_hop", lambda self, one: (note(self, one), bulk_hop(self, one))[1])
    monkeypatch.setattr(Worker, "open_session", opening)
    options: dict[str, Any] = {"dtype": "float32", "weights": "int4", "placement": "auto", "private_to": "b"}
    options |= {"kv_memory_bytes": 400_000, "prefill_chunk_tokens": 4}
    with ring_in_process(4, memory_bytes=500_000) as ring, ring.connect() as cluster:
        with cluster.load(tiny, **options) as model:
            devices = [stage.device for stage in model.plan.stages]
            assert devices[0] == devices[-1] == "b" and len(set(devices)) > 1
            assert answers(model, GREEDY, **LOOKING_UP) == expected[:3]
            ring.network.kill(next(each for each in devices if each != "b"))
            assert answers(model, SAMPLED, **LOOKING_UP) == expected[3:]
    assert oracle.num_right > 20
    assert {name for name, is_ids in came if is_ids} == {"b"}
    assert {name for name, key in keys if key} == {"b"} and {name for name, _ in keys} > {"b"}


@pytest.mark.parametrize("split", [[6], SPLIT])
@pytest.mark.parametrize("held", ["float32", "int4"])
def test_scores_are_the_same_beside_guesses(
    tiny: Path, texts: Texts, held: str, split: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(held)
    guess_well(monkeypatch, expected)
    text = [5 + number % 90 for number in range(60)]
    with loaded(tiny, split, weights=held) as (_, model):
        plain = model.score(text)
        streams = [model.stream(prompt, max_new_tokens=NUM_TOKENS, **LOOKING_UP) for prompt in PROMPTS]
        for number, stream in enumerate(streams):
            next(stream)
            found = model.score(text)
            assert found.log_likelihoods == pytest.approx(plain.log_likelihoods, abs=1e-4), number
            assert found.likeliest == plain.likeliest
        for stream in streams:
            "".join(stream)
        assert [stream.result.token_ids for stream in streams] == expected[: len(PROMPTS)]


# ---- what is left behind ----


@pytest.fixture
def guessers(monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.WeakSet[Guesser]]:
    """Those that are there."""
    found: weakref.WeakSet[Guesser] = weakref.WeakSet()

    class Noted(Guesser):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            found.add(self)

    monkeypatch.setattr(front, "Guesser", Noted)
    yield found


def test_two_hundred_sessions_leave_nothing_behind(tiny: Path, guessers: weakref.WeakSet[Guesser]) -> None:
    """Eight at a time, closed at any moment, with beginnings of others."""
    chance = Random(0)
    with loaded(tiny, SPLIT, weights="int4") as (ring, model):
        tracemalloc.start()
        try:
            sizes = [_after_sessions(ring, model, chance, num_sessions) for num_sessions in (60, 70, 70)]
        finally:
            tracemalloc.stop()
        assert len(guessers) == 0
        assert sizes[2] - sizes[1] < 50_000, sizes
        assert not [each for each in gc.get_objects() if type(each) is LiveSession]


def _after_sessions(ring: RingInProcess, model: Model, chance: Random, num_sessions: int) -> int:
    """How many bytes Python has when so many more sessions were begun and closed."""
    text = [5 + number % 7 for number in range(40)]
    under_way: list[Any] = []
    for number in range(num_sessions):
        size = chance.randint(1, len(text))
        how = chance.choice((GREEDY, {**SAMPLED, "seed": number}))
        under_way.append(model.stream(text[:size], max_new_tokens=chance.randint(1, 30), **LOOKING_UP, **how))
        for _ in range(chance.randint(0, 6)):
            next(under_way[chance.randrange(len(under_way))], "")
        if len(under_way) == 8:
            for _ in range(chance.randint(1, 8)):
                under_way.pop(chance.randrange(len(under_way))).close()
    for stream in under_way:
        stream.close()
    under_way.clear()
    wait_until(lambda: is_empty(ring, model))
    for worker in ring.workers.values():
        for host in worker._stages.hosts():
            host.standings().result(60)
            assert host.stage is not None
            kv = host.stage.kv
            assert kv.recent_bytes == kv.budget.reserved_bytes == kv.budget.spare_bytes
            kv.drop_recent()
            assert kv.budget.reserved_bytes == 0
    gc.collect()
    # The network of the tests waits for answers for a while, as they do.
    ours = [tracemalloc.Filter(True, f"*/shardnet/{room}/*") for room in ("stage", "speculation", "session", "device")]
    return sum(each.size for each in tracemalloc.take_snapshot().filter_traces(ours).statistics("filename"))


def test_a_stage_that_is_the_first_no_more_keeps_no_guesser(tiny: Path, guessers: weakref.WeakSet[Guesser]) -> None:
    """It has an index of the whole conversation."""
    with loaded(tiny, [2, 2, 2], standby="none") as (ring, model):
        slow_down(ring)
        stream = model.stream([5, 6, 7] * 5, max_new_tokens=400, **LOOKING_UP)
        for _ in range(20):
            next(stream)
        [before] = map(weakref.ref, guessers)
        plan = Plan(stages_from_counts(["c", "a", "b"], [1, 3, 2]))
        assert rings_of(model).go_over(lambda *_: plan)

        def is_another() -> bool:
            next(stream)
            gc.collect()
            return before() is None and len(guessers) == 1

        wait_until(is_another)
        stream.close()


# ---- weights of few bits in bfloat16, whose products are in C ----


@needs_compiler
@pytest.mark.parametrize(
    ("split", "kept", "lost"),
    [([6], "none", ""), (SPLIT, "hot", "a"), (SPLIT, "cold", "b"), (SPLIT, "hot", "c"), ([1, 4, 1], "cold", "c")],
)
def test_in_half_precision_no_token_changes_where_products_are_in_c(
    tiny: Path, split: list[int], kept: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes of a row depends on that row alone, so that neither guesses nor what is computed anew change a bit."""
    options: dict[str, Any] = {"dtype": "bfloat16", "weights": "int4", "prefill_chunk_tokens": 4}
    with ring_in_process(1) as ring, ring.connect() as cluster:
        with cluster.load(tiny, **options, split=[6], share_prefixes=False) as model:  # by hand: nothing is timed
            expected = [*answers(model, GREEDY), *answers(model, SAMPLED)]
    guess_well(monkeypatch, expected)
    with ring_in_process(len(split)) as ring, ring.connect() as cluster:
        with cluster.load(tiny, **options, split=split, standby=kept) as model:
            slow_down(ring)
            if kept == "hot":
                wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
            streams = [
                model.stream(prompt, max_new_tokens=NUM_TOKENS, **LOOKING_UP, **how)
                for how in (GREEDY, SAMPLED)
                for prompt in PROMPTS
            ]
            for _ in range(6):
                next(streams[0])
            if lost:
                ring.network.kill(lost)
            for stream in streams:
                "".join(stream)
            assert [stream.result.token_ids for stream in streams] == expected
