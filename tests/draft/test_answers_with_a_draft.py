"""Answers with a draft are those without: one that agrees with all tokens, one that agrees with none, and whatever is
lost in the midst. A whole ring in one process, and a source beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process_ring import loaded, ring_in_process
from processes import wait_until
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.draft.engine import Engine
from shardnet.speculation.guesser import Guesser
from shardnet.stage import front

PROMPTS = [[5, 6, 7, 8, 9], [40, 41], [100 + number for number in range(33)]]
NUM_TOKENS = 24
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "top_k": 40, "seed": 5},
    {"temperature": 1.1, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 6},
    {"repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model, which says other things."""
    return save_text_model(tmp_path_factory.mktemp("other"), num_blocks=1, intermediate=64)


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[list[int]]]:
    """Without a draft: of each way the answers."""
    with loaded(tiny, [6]) as (_, model):
        return [ids(model, way) for way in WAYS]


def ids(model: Model, way: dict[str, Any], prompts: list[list[int]] = PROMPTS, **more: Any) -> list[list[int]]:
    results = model.generate(prompts, max_new_tokens=NUM_TOKENS, **way, **more)
    return [result.token_ids for result in results]


def engine_of(model: Model) -> Engine:
    """Of its only draft, once that is loaded."""
    [engine] = model._drafts._engines.values()
    return engine.result(60)


@pytest.fixture
def guessers(monkeypatch: pytest.MonkeyPatch) -> list[Guesser]:
    """Those of all sessions at first stages."""
    found: list[Guesser] = []

    class Noted(Guesser):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found.append(self)

    monkeypatch.setattr(front, "Guesser", Noted)
    return found


def slowed(ring: Any, seconds: float = 0.02) -> None:
    """Hops take so long, as between hosts: so there is time to guess."""
    for name in ring.names:
        for other in ring.names:
            if other != name:
                ring.network.delay(name, other, seconds)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_draft_that_is_the_same_model_agrees_with_all(
    tiny: Path, expected: list[list[list[int]]], way: int, guessers: list[Guesser]
) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        slowed(ring)
        ids(model, WAYS[way], PROMPTS[:1], draft=str(tiny))
        engine_of(model)
        guessers.clear()
        assert ids(model, WAYS[way], PROMPTS[:1], draft=str(tiny)) == expected[way][:1]
        assert sum(each.num_right for each in guessers) > 2


@pytest.mark.parametrize("split", [[6], [1, 5], [2, 2, 2]])
def test_the_text_is_the_same_with_a_draft_that_agrees_with_none(
    tiny: Path, other: Path, expected: list[list[list[int]]], split: list[int]
) -> None:
    with loaded(tiny, split) as (_, model):
        for way, answers in zip(WAYS, expected, strict=True):
            assert ids(model, way, draft=str(other)) == answers, way
            engine_of(model)


def test_several_answers_share_the_steps_of_a_draft(
    tiny: Path, expected: list[list[list[int]]], guessers: list[Guesser]
) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        slowed(ring)
        for way, answers in zip(WAYS, expected, strict=True):
            assert ids(model, way, draft=str(tiny)) == answers, way
            engine_of(model)
        guessers.clear()
        assert ids(model, WAYS[0], draft=str(tiny)) == expected[0]
        assert sum(each.num_right for each in guessers) > 6


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("way", [0, 2])
def test_a_device_is_lost_while_a_draft_goes_ahead(
    tiny: Path, expected: list[list[list[int]]], lost: str, way: int
) -> None:
    """Also the one that offers go to: the next ones find the first stage where it is then."""
    with loaded(tiny, [2, 2, 2], speed=20.0) as (ring, model):
        ids(model, WAYS[0], PROMPTS[:1], draft=str(tiny))
        engine_of(model)
        slowed(ring, 0.2)
        streams = [model.stream(prompt, max_new_tokens=NUM_TOKENS, draft=str(tiny), **WAYS[way]) for prompt in PROMPTS]
        for stream in streams:
            next(stream)
        ring.network.kill(lost)
        for stream in streams:
            for _ in stream:
                pass
        assert [stream.result.token_ids for stream in streams] == expected[way]
        ring.network.restore()
        assert ids(model, WAYS[way], draft=str(tiny)) == expected[way]


def test_offers_find_a_first_stage_that_has_moved(tiny: Path, guessers: list[Guesser]) -> None:
    num_tokens = 200
    with loaded(tiny, [2, 2, 2], speed=20.0) as (ring, model):
        [plain] = model.generate(PROMPTS[:1], max_new_tokens=num_tokens)
        ids(model, WAYS[0], PROMPTS[:1], draft=str(tiny))
        engine_of(model)
        slowed(ring, 0.4)
        stream = model.stream(PROMPTS[0], max_new_tokens=num_tokens, draft=str(tiny))
        next(stream)
        ring.network.kill("a")
        for _ in stream:
            pass
        assert stream.result.token_ids == plain.token_ids
        assert model._drafts._first_stage._device == model.plan.stages[0].device != "a"


def test_all_offers_are_lost(tiny: Path, expected: list[list[list[int]]]) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        ring.network.drop("coordinator", "a", endpoint="offer", count=10**6)
        for way, answers in zip(WAYS, expected, strict=True):
            assert ids(model, way, draft=str(tiny)) == answers, way
            engine_of(model)


def test_offers_come_twice_and_late(tiny: Path, expected: list[list[list[int]]]) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        ring.network.duplicate("coordinator", "a", endpoint="offer", count=10**6)
        ring.network.scatter(0.02, seed=1)
        for way, answers in zip(WAYS, expected, strict=True):
            for _ in range(2):
                assert ids(model, way, draft=str(tiny)) == answers, way
                engine_of(model)


def test_an_answer_begins_with_what_a_draft_has_of_another_one(tiny: Path, expected: list[list[list[int]]]) -> None:
    """As the second turn of a chat does."""
    long = PROMPTS[2]
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        slowed(ring)
        [first] = model.generate([long], max_new_tokens=NUM_TOKENS, draft=str(tiny))
        engine = engine_of(model)
        [again] = model.generate([long], max_new_tokens=NUM_TOKENS, draft=str(tiny))
        wait_until(lambda: engine._kv.recent_bytes > 0)
        opened: list[int] = []
        place = engine._place_for

        def noted(*args: Any) -> Any:
            kv = place(*args)
            opened.append(0 if kv is None else kv.length)
            return kv

        engine._place_for = noted  # type: ignore[method-assign]
        turn = [*long, *first.token_ids, 7, 8]
        plain = model.generate([turn], max_new_tokens=NUM_TOKENS)[0].token_ids
        assert model.generate([turn], max_new_tokens=NUM_TOKENS, draft=str(tiny))[0].token_ids == plain
        assert [again.token_ids] == expected[0][2:]
        wait_until(lambda: opened != [])
        assert opened[0] > len(long)


def test_nothing_is_left_of_an_answer_that_nobody_holds(tiny: Path) -> None:
    with loaded(tiny, [2, 2, 2]) as (_, model):
        ids(model, WAYS[0], PROMPTS[:1], draft=str(tiny))
        engine = engine_of(model)
        stream = model.stream(PROMPTS[0], max_new_tokens=2000, draft=str(tiny))
        wait_until(lambda: len(engine._open) > 0)
        next(stream)
        del stream
        ids(model, WAYS[0], PROMPTS[:1], draft=str(tiny))
        wait_until(lambda: not engine._open and not engine._waiting)
        assert len(engine._kv) == 0


@pytest.mark.parametrize(
    "how",
    [{"private_to": "b", "placement": "even"}, {"weights": "int8"}, {"kv_dtype": "int8"}, {"wire": "float32"}],
    ids=lambda how: next(iter(how)),
)
def test_however_a_model_is_loaded(tiny: Path, how: dict[str, Any]) -> None:
    """What guesses go by are ids, which both ends have; and what is rounded is so token by token."""
    with ring_in_process(3) as ring, ring.connect() as cluster:
        where = {} if "private_to" in how else {"split": [2, 2, 2]}
        model = cluster.load(tiny, dtype="float32", prefill_chunk_tokens=4, **where, **how)
        plain = [ids(model, way) for way in WAYS]
        for _ in range(2):
            assert [ids(model, way, draft=str(tiny)) for way in WAYS] == plain
            engine_of(model)


@pytest.mark.parametrize("lost", ["a", "c"])
def test_who_stands_ready_takes_over_from_an_end_of_the_ring(
    tiny: Path, expected: list[list[list[int]]], lost: str
) -> None:
    with loaded(tiny, [2, 2, 2], speed=20.0, standby="hot") as (ring, model):
        ids(model, WAYS[2], PROMPTS[:1], draft=str(tiny))
        engine_of(model)
        slowed(ring, 0.2)
        stream = model.stream(PROMPTS[2], max_new_tokens=NUM_TOKENS, draft=str(tiny), **WAYS[2])
        for _ in range(3):
            next(stream)
        ring.network.kill(lost)
        for _ in stream:
            pass
        assert stream.result.token_ids == expected[2][2]
