"""`speculate="lookup"` through the whole of a ring in one process: the text is that without it, for every split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guesses import Oracle
from in_process_ring import loaded, rings_of
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.stage import front
from shardnet.stage.sampled import Scores

PROMPTS = [[5, 6, 7, 8, 9], [40, 41], [100 + number for number in range(13)]]
NUM_TOKENS = 24
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "top_k": 40, "seed": 5},
    {"temperature": 1.1, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 6},
    {"repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[list[int]]]:
    """Without guesses: of each way the answers."""
    with loaded(tiny, [6]) as (_, model):
        return [ids(model, way) for way in WAYS]


def ids(model: Model, way: dict[str, Any], prompts: list[list[int]] = PROMPTS, **more: Any) -> list[list[int]]:
    results = model.generate(prompts, max_new_tokens=NUM_TOKENS, **way, **more)
    return [result.token_ids for result in results]


@pytest.fixture
def num_drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the steps of the last stage in which something is sampled."""
    steps: list[int] = []
    begin = Scores.__init__

    def noted(self: Scores, *args: Any) -> None:
        steps.append(1)
        begin(self, *args)

    monkeypatch.setattr(Scores, "__init__", noted)
    return steps


@pytest.mark.parametrize("split", [[6], [1, 5], [5, 1], [3, 3], [2, 2, 2], [1, 1, 4], [1, 1, 1, 1, 1, 1]])
def test_text_is_the_same_for_every_split(tiny: Path, expected: list[list[list[int]]], split: list[int]) -> None:
    with loaded(tiny, split) as (_, model):
        for way, answers in zip(WAYS, expected, strict=True):
            for speculate in ("lookup", "auto"):
                assert ids(model, way, speculate=speculate) == answers, (way, speculate)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("split", [[6], [2, 2, 2]])
def test_it_is_the_same_whatever_is_guessed(
    tiny: Path, expected: list[list[list[int]]], split: list[int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(tiny, split) as (_, model):
        for way, answers in zip(WAYS, expected, strict=True):
            oracle = Oracle([prompt + each for prompt, each in zip(PROMPTS, answers, strict=True)], share)
            monkeypatch.setattr(front, "Guesser", oracle.guesser)
            assert ids(model, way, speculate="lookup") == answers, way
            results = model.generate(PROMPTS, max_new_tokens=NUM_TOKENS, **way, speculate="lookup")
            assert all(each.guesses_right <= each.guesses_checked for each in results)
            assert (sum(each.guesses_right for each in results) > 0) == (share > 0)
            assert all((each.tokens_per_pass or 0) > 1 for each in results if each.guesses_right)
            assert oracle.num_guessed > 0
            assert share == 0.6 or oracle.num_right == share * oracle.num_guessed


def test_an_answer_that_repeats_takes_fewer_laps(tiny: Path, expected: Any, num_drawn: list[int]) -> None:
    """The answer to the first prompt repeats two tokens."""
    with loaded(tiny, [3, 3]) as (_, model):
        assert ids(model, {}, PROMPTS[:1]) == expected[0][:1]
        num_plain, num_drawn[:] = len(num_drawn), []
        assert ids(model, {}, PROMPTS[:1], speculate="lookup") == expected[0][:1]
        assert len(num_drawn) < 0.8 * num_plain


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7])
def test_an_answer_ends_within_a_run_that_was_guessed_right(
    tiny: Path, expected: Any, num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its length, or by a token that ends it."""
    oracle = Oracle([prompt + each for prompt, each in zip(PROMPTS, expected[0], strict=True)], 1.0)
    monkeypatch.setattr(front, "Guesser", oracle.guesser)
    with loaded(tiny, [2, 2, 2]) as (_, model):
        for number, whole in enumerate(expected[0]):
            [result] = model.generate([PROMPTS[number]], max_new_tokens=num_tokens, speculate="lookup")
            assert (result.token_ids, result.finish_reason) == (whole[:num_tokens], "length")
            end = whole[num_tokens]
            model.eos_ids = (end,)
            [result] = model.generate([PROMPTS[number]], max_new_tokens=NUM_TOKENS, speculate="lookup")
            model.eos_ids = ()
            assert result.token_ids == whole[: whole.index(end)] + result.token_ids[whole.index(end) :]
            assert result.finish_reason == "eos" and len(result.token_ids) <= whole.index(end) + 1


def test_a_ring_that_is_changed_goes_on_guessing(tiny: Path, expected: list[list[list[int]]]) -> None:
    with loaded(tiny, [2, 2, 2], speed=20.0) as (ring, model):
        streams = [model.stream(prompt, max_new_tokens=NUM_TOKENS, speculate="lookup", **WAYS[1]) for prompt in PROMPTS]
        next(streams[0])
        ring.network.kill("b")
        for stream in streams:
            for _ in stream:
                pass
        assert [stream.result.token_ids for stream in streams] == expected[1]
        assert rings_of(model) is not None
        assert ids(model, WAYS[0], speculate="lookup") == expected[0]


@pytest.mark.parametrize("num_opened", [1, 2])
def test_an_answer_that_is_opened_while_the_ring_is_exchanged_is_guessed(
    tiny: Path, expected: list[list[list[int]]], num_opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first stage has it from the ring before, and once took that for a reason not to guess."""
    oracle = Oracle([PROMPTS[0] + expected[0][0]], 1.0)
    monkeypatch.setattr(front, "Guesser", oracle.guesser)
    with loaded(tiny, [2, 2, 2], speed=20.0) as (ring, model):
        ring.network.at("open_session", num_opened, lambda: ring.network.kill("c"))
        assert ids(model, {}, PROMPTS[:1], speculate="lookup") == expected[0][:1]
        assert len(model.events) > 0 and oracle.num_right > 0
