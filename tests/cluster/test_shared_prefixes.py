"""Sessions that begin like others take over what the stages have of these: the text is the same, less is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process_ring import SPLIT, RingInProcess, alone, loaded

from shardnet.cluster.model import Model
from shardnet.session import beginnings
from shardnet.session.session import Session

FIRST = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
NEW = [21, 22, 23, 24, 25]
NUM_TOKENS = 8


@pytest.fixture(autouse=True)
def few_tokens_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)


def start(model: Model, ids: list[int], num_tokens: int = NUM_TOKENS, **options: Any) -> Session:
    stream = model.stream(ids, max_new_tokens=num_tokens, **options)
    session = stream._session
    assert isinstance(session, Session)
    return session


def ids_of(session: Session) -> list[int]:
    return [token.token_id for token in session]


def num_computed(ring: RingInProcess, model: Model) -> list[int]:
    """Tokens that went through each stage since the last time, those of the step that told the last one, too."""
    for worker in ring.workers.values():
        for host in worker._stages.hosts():
            host.standings().result(60)
    computed = [report.num_tokens for report in model.report()]
    model.reset_report()
    return computed


@pytest.mark.parametrize("split", [SPLIT, [6], [1, 4, 1]])
def test_the_second_turn_computes_its_new_tokens_only(tiny: Path, split: list[int]) -> None:
    with loaded(tiny, split) as (ring, model):
        first = ids_of(start(model, FIRST))
        num_computed(ring, model)
        turn = FIRST + first + NEW
        session = start(model, turn)
        assert ids_of(session) == alone(tiny, [turn], NUM_TOKENS)[0]
        assert session.num_shared == len(FIRST) + NUM_TOKENS - 1
        assert num_computed(ring, model) == [1 + len(NEW) + NUM_TOKENS - 1] * len(split)


def test_it_goes_on_over_many_turns_and_memory_adds_up(tiny: Path) -> None:
    with loaded(tiny, SPLIT) as (ring, model):
        ids = FIRST
        for turn in range(4):
            session = start(model, ids)
            answer = ids_of(session)
            assert answer == alone(tiny, [ids], NUM_TOKENS)[0]
            assert session.num_shared == (len(ids) - len(NEW) - 1 if turn else 0)
            ids = ids + answer + NEW
        model._deployment.sessions.settle()
        for worker in ring.workers.values():
            [host] = worker._stages.hosts()
            assert host.stage is not None
            kv = host.stage.kv
            assert len(kv) == 0 and kv.reserved_bytes == 0
            assert kv.recent_bytes == kv.budget.reserved_bytes == kv.budget.spare_bytes > 0


def test_a_prompt_that_begins_alike_shares_that_and_no_more(tiny: Path) -> None:
    other = FIRST[:7] + NEW
    with loaded(tiny, SPLIT) as (_, model):
        ids_of(start(model, FIRST))
        session = start(model, other)
        assert ids_of(session) == alone(tiny, [other], NUM_TOKENS)[0]
        assert session.num_shared == 7


def test_who_is_asked_twice_computes_one_token_of_the_prompt(tiny: Path) -> None:
    with loaded(tiny, SPLIT) as (_, model):
        expected = ids_of(start(model, FIRST))
        [again] = model.generate([FIRST], max_new_tokens=NUM_TOKENS)
        assert again.token_ids == expected and again.cached_prompt_tokens == len(FIRST) - 1


def test_a_session_under_way_shares_what_it_has_and_goes_on(tiny: Path) -> None:
    other = FIRST + NEW
    expected = alone(tiny, [FIRST], 24)[0], alone(tiny, [other], 24)[0]
    with loaded(tiny, SPLIT) as (_, model):
        first = start(model, FIRST, 24)
        tokens = iter(first)
        told = [next(tokens).token_id]
        second = start(model, other, 24)
        assert len(FIRST) <= second.num_shared <= len(FIRST) + 1
        assert ids_of(second) == expected[1]
        assert told + [token.token_id for token in tokens] == expected[0]


@pytest.mark.parametrize("split", [SPLIT, [6]])
def test_prompts_that_come_at_the_same_moment_share_what_the_first_computes(
    tiny: Path, split: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginnings, "LEAST_WAITED", 8)
    prompts = [FIRST + [number] * 3 for number in range(40, 44)]
    expected = alone(tiny, prompts, NUM_TOKENS)
    with loaded(tiny, split) as (ring, model):
        num_computed(ring, model)
        answers = model.generate(prompts, max_new_tokens=NUM_TOKENS)
        assert [each.token_ids for each in answers] == expected
        assert [each.cached_prompt_tokens for each in answers] == [0] + [len(FIRST)] * 3
        total = len(FIRST) + 4 * (3 + NUM_TOKENS - 1)
        assert num_computed(ring, model) == [total] * len(split)


def test_sampled_text_is_that_of_the_seed(tiny: Path) -> None:
    options = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.3, "seed": 5}
    turn = FIRST + NEW
    with loaded(tiny, SPLIT) as (_, model):
        expected = ids_of(start(model, turn, **options))
    with loaded(tiny, SPLIT) as (_, model):
        ids_of(start(model, FIRST, **options))
        session = start(model, turn, **options)
        assert ids_of(session) == expected and session.num_shared >= len(FIRST)


def test_nothing_is_shared_where_it_is_switched_off(tiny: Path) -> None:
    with loaded(tiny, SPLIT, share_prefixes=False) as (ring, model):
        ids_of(start(model, FIRST))
        session = start(model, FIRST + NEW)
        ids_of(session)
        assert session.num_shared == 0
        model._deployment.sessions.settle()
        for worker in ring.workers.values():
            [host] = worker._stages.hosts()
            assert host.stage is not None and host.stage.kv.budget.reserved_bytes == 0


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("num_read", [0, 1, 5])
def test_a_loss_in_a_session_that_began_with_another_changes_no_token(tiny: Path, lost: str, num_read: int) -> None:
    """What the one before the lost stage sends again are also rows that it had sent for the other session."""
    with loaded(tiny, SPLIT) as (ring, model):
        turn = FIRST + ids_of(start(model, FIRST)) + NEW
        [expected] = alone(tiny, [turn], 16)
        session = start(model, turn, 16)
        assert session.num_shared == len(FIRST) + NUM_TOKENS - 1
        tokens = iter(session)
        told = [next(tokens).token_id for _ in range(num_read)]
        ring.network.kill(lost)
        assert told + [token.token_id for token in tokens] == expected


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_after_a_loss_stages_share_what_all_have(tiny: Path, lost: str) -> None:
    with loaded(tiny, SPLIT) as (ring, model):
        first = ids_of(start(model, FIRST))
        ring.network.kill(lost)
        turn = FIRST + first + NEW
        session = start(model, turn)
        assert ids_of(session) == alone(tiny, [turn], NUM_TOKENS)[0]
        again = start(model, turn + NEW)
        assert ids_of(again) == alone(tiny, [turn + NEW], NUM_TOKENS)[0] and again.num_shared == len(turn)
