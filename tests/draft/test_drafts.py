"""Which drafts a model takes, and what becomes of answers where one fails."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, loaded
from processes import wait_until
from safetensors.torch import load_file, save_file
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.draft import drafts
from shardnet.draft.engine import Engine
from shardnet.errors import BadRequest, ModelNotFound, ShardnetError, UsageError
from shardnet.models import Shard
from shardnet.models.blocks import Block
from shardnet.transport.offer_messages import Offer

NUM_TOKENS = 24


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with loaded(tiny, [3, 3]) as (_, model):
        yield model


@pytest.fixture(scope="module")
def expected(model: Model) -> list[int]:
    return answer(model)


@pytest.fixture
def draft(model: Model, tiny: Path) -> Iterator[str]:
    """One that is opened anew."""
    yield str(tiny)
    drafts._close_all(model._drafts._engines)
    model._drafts._engines.clear()


def answer(model: Model, **asked: Any) -> list[int]:
    [result] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, **asked)
    return result.token_ids


def engines() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "shardnet-draft"}


def test_one_with_another_tokenizer_is_refused(model: Model, tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "other")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadRequest, match=r"^draft other has another tokenizer than tiny\d*, so that .* same family\.$"):
        answer(model, draft=str(folder))


def test_what_is_no_model_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        answer(model, draft=str(tmp_path / "nothing"))
    for nonsense in ("", " ", 5, b"x"):
        with pytest.raises(BadRequest, match="a draft is a path or a hub id"):
            answer(model, draft=nonsense)
    with pytest.raises(UsageError, match="draft_weights must be one of"):
        answer(model, draft=str(tmp_path), draft_weights="int3")
    with pytest.raises(BadRequest, match="speculate draft needs a draft"):
        answer(model, speculate="draft")


@pytest.mark.parametrize("weights", ["int4", "int8", "w8a8"])
def test_one_may_be_held_in_few_bits(model: Model, draft: str, expected: list[int], weights: str) -> None:
    for _ in range(2):
        assert answer(model, draft=draft, draft_weights=weights) == expected
        [engine] = model._drafts._engines.values()
        engine.result(60)


def test_it_computes_as_devices_do(model: Model, draft: str) -> None:
    """It had transformers' modules, which took three times as long."""
    answer(model, draft=draft)
    [engine] = model._drafts._engines.values()
    blocks = [module for unit in engine.result(60)._shard.units if unit.kv for module in unit.modules.values()]
    assert blocks and all(isinstance(block, Block) for block in blocks)


def test_it_is_loaded_once_and_ends_with_the_model(tiny: Path) -> None:
    before = engines()
    with loaded(tiny, [6]) as (_, model):
        for _ in range(3):
            answer(model, draft=str(tiny))
        wait_until(lambda: len(engines() - before) == 1)
        model.close()
        wait_until(lambda: engines() <= before)  # those of tests before may have been about to end


def test_a_model_that_was_closed_opens_none(tiny: Path) -> None:
    before = engines()
    with loaded(tiny, [6]) as (_, model):
        model.close()
        with pytest.raises(ShardnetError, match="closed"):
            model.stream(PROMPT, draft=str(tiny))
        with pytest.raises(BadRequest, match="the model was closed, and its drafts with it"):
            model._drafts.get(drafts.Wanted(str(tiny), "auto", 1))
        assert not model._drafts._engines and engines() <= before


def test_one_that_is_opened_while_its_model_is_closed_ends(
    model: Model, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have kept its thread and its weights until the process ends."""
    own = drafts.Drafts(model.profile, model.tokenizer, model._drafts._first_stage)
    check = drafts.check_tokenizers
    monkeypatch.setattr(drafts, "check_tokenizers", lambda *args: (own.close(), check(*args)))
    engine = own.get(drafts.Wanted(str(tiny), "auto", 1)).engine.result(60)
    wait_until(lambda: not engine._thread.is_alive())


def test_one_for_which_there_is_no_room_is_done_without(
    model: Model, draft: str, expected: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drafts, "usable_memory_bytes", lambda: 1000)
    with caplog.at_level(logging.WARNING, "shardnet"):
        for _ in range(2):
            assert answer(model, draft=draft) == expected
        wait_until(lambda: len(caplog.messages) == 1)
    assert caplog.messages[0].startswith(f"answers go on without the draft {draft}: its weights take 0.00 GiB, and ")


def test_an_answer_for_which_it_has_no_room_is_done_without(
    model: Model, draft: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "KV_SHARE", 0.0)
    for _ in range(2):
        assert answer(model, draft=draft) == expected
        [engine] = model._drafts._engines.values()
        engine.result(60)


@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_one_that_dies_in_the_midst_is_done_without(
    model: Model,
    draft: str,
    expected: list[int],
    num_steps: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer(model, draft=draft)
    [engine] = model._drafts._engines.values()
    shard, left = engine.result(60)._shard, [num_steps]

    def forward(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of order")
        return Shard.forward(shard, *args)

    monkeypatch.setattr(shard, "forward", forward)
    with caplog.at_level(logging.WARNING, "shardnet"):
        for _ in range(3):
            assert answer(model, draft=draft) == expected
        wait_until(lambda: caplog.messages == ["answers go on without the draft: RuntimeError: out of order"])


def test_one_that_is_slow_delays_nothing(
    model: Model, draft: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(model, draft=draft)
    [engine] = model._drafts._engines.values()
    shard, goes_on = engine.result(60)._shard, threading.Event()

    def forward(*args: Any) -> Any:
        goes_on.wait(60)
        return Shard.forward(shard, *args)

    monkeypatch.setattr(shard, "forward", forward)
    assert answer(model, draft=draft) == expected
    goes_on.set()


def test_an_id_that_it_has_not_ends_it_for_no_other_answer(tiny: Path, tmp_path: Path) -> None:
    """The embedding of the ring's model has more rows, as those of larger models often do."""
    large, num_more = shutil.copytree(tiny, tmp_path / "large"), 63
    tensors = load_file(large / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:num_more]])
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((large / "config.json").read_text())
    first_more = config["vocab_size"]
    (large / "config.json").write_text(json.dumps(config | {"vocab_size": first_more + num_more}))
    with loaded(large, [3, 3]) as (_, model):
        model.stream(PROMPT, max_new_tokens=1, draft=str(tiny)).close()
        [engine] = [each.result(60) for each in model._drafts._engines.values()]
        list(model.stream([*PROMPT, first_more], max_new_tokens=200, draft=str(tiny)))
        with model.stream(PROMPT, max_new_tokens=4000, draft=str(tiny)) as stream:
            next(stream)
            wait_until(lambda: engine._open or engine._is_closed)
            assert not engine._is_closed


def test_an_answer_that_is_over_takes_no_room_of_it(model: Model, draft: str) -> None:
    """Streams may be held long after: those that a stop string ends once kept their places, until there was none."""
    [whole] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, draft=draft)
    [engine] = [each.result(60) for each in model._drafts._engines.values()]
    held = []
    for options in ({"stop": [whole.text[8:10]]}, {"stop": [whole.text[-2:]]}, {}):
        held.append(model.stream(PROMPT, max_new_tokens=200, draft=draft, **options))
        next(held[-1])
        wait_until(lambda: len(engine._open) == 1)
        if options:
            list(held[-1])
        held[-1].close()
        wait_until(lambda: not engine._open)
    assert [each.result.finish_reason for each in held] == ["stop", "stop", "cancelled"]
    conversation = held[-1]._session
    late = engine.guess(conversation.spec, PROMPT, print)
    conversation.show(late)  # the draft was loaded when the answer was over
    assert late.chain.is_over


def test_what_a_program_leaves_is_ended(tiny: Path) -> None:
    """A thread that computes while its process ends must not end it by force."""
    with loaded(tiny, [6]) as (_, model):
        answer(model, draft=str(tiny))
        engine: Engine = next(iter(model._drafts._engines.values())).result(60)
        engine._end()
        assert not engine._thread.is_alive()
        assert engine.guess(model.stream(PROMPT)._session.spec, PROMPT, print).chain.wants_more() is False


def test_threads_of_others_compute_as_before(model: Model, draft: str) -> None:
    """torch has one number for all threads that begin later."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        answer(model, draft=draft)
        [engine] = model._drafts._engines.values()
        numbers: list[int] = []
        monkeyed = engine.result(60)._shard.forward
        engine.result()._shard.forward = lambda *args: (numbers.append(torch.get_num_threads()), monkeyed(*args))[1]
        answer(model, draft=draft)
        wait_until(lambda: numbers != [])
        assert set(numbers) == {1}
        others: list[int] = []
        thread = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert others == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_copy_of_the_first_stage_takes_no_offers(tiny: Path) -> None:
    """Or whoever offers would not look for the first stage any more."""
    with loaded(tiny, [2, 2, 2], standby="hot") as (ring, model):
        stream = model.stream(PROMPT, max_new_tokens=1000, draft=str(tiny))

        def answers() -> set[tuple[bool, bool]]:
            """Of all that have the session's key: whether it is held there, and whether an offer is taken."""
            key = stream._session.spec.offer_key
            stages = [host.stage for worker in ring.workers.values() for host in worker._stages.hosts()]
            return {
                (live.is_held, stage.offer(Offer(key, 0, 0, (5,))))
                for stage in stages
                if stage is not None
                for live in stage._sessions.all()
                if live.spec.offer_key == key
            }

        wait_until(lambda: answers() == {(False, True), (True, False)})
        stream.close()
