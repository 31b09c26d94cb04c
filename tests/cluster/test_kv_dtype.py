"""Keys and values in 8 bits through a whole ring in this process: nothing but them is rounded, whatever happens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, SPLIT, RingInProcess, loaded, rings_of
from processes import wait_until
from tiny_text_model import save_text_model
from transformers import AutoModelForCausalLM, DynamicCache

from shardnet.cluster import standby
from shardnet.cluster.model import Model
from shardnet.device.stage_host import StageHost
from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.quantised.kv_rows import decode, encode
from shardnet.session import beginnings

NUM_TOKENS = 24
LONG = list(range(40, 75))


class RoundedCache(DynamicCache):
    """What transformers keeps, each head of each token rounded by itself."""

    def update(self, key: torch.Tensor, value: torch.Tensor, *where: Any, **named: Any) -> Any:
        key, value = (decode(encode(heads), heads.shape[-1], torch.float32) for heads in (key, value))
        return super().update(key, value, *where, **named)


def alone(folder: Path, prompt: list[int], num_tokens: int = NUM_TOKENS) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=RoundedCache(),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return output[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, PROMPT)


def load(tiny: Path, split: list[int] = SPLIT, **options: Any) -> Any:
    return loaded(tiny, split, kv_dtype="int8", **options)


def answer(model: Model, prompt: list[int], **options: Any) -> list[int]:
    [result] = model.generate([prompt], max_new_tokens=NUM_TOKENS, **options)
    return result.token_ids


def stages_of(ring: RingInProcess) -> list[StageHost]:
    return [host for worker in ring.workers.values() for host in worker._stages.hosts()]


@pytest.mark.parametrize("split", [[6], [1, 5], [5, 1], SPLIT, [1, 1, 4], [1, 1, 1, 1, 1, 1]])
def test_every_split_answers_as_the_whole_model_with_rounded_keys_and_values(
    tiny: Path, expected: list[int], split: list[int]
) -> None:
    with load(tiny, split) as (_, model):
        assert answer(model, PROMPT) == expected
        assert answer(model, LONG) == alone(tiny, LONG)
        together = model.generate([PROMPT, LONG[:9], LONG], max_new_tokens=NUM_TOKENS)
        assert [each.token_ids for each in together] == [expected, alone(tiny, LONG[:9]), alone(tiny, LONG)]


def test_twice_as_many_tokens_have_room_and_all_who_count_know_it(tiny: Path) -> None:
    kept_bytes = {}
    for kv_dtype in ("auto", "int8"):
        with loaded(tiny, SPLIT, kv_dtype=kv_dtype) as (ring, model):
            planned = [unit.kv_bytes_per_token for unit in model.profile.units]
            for stage, host in zip(model.plan.stages, stages_of(ring), strict=True):
                assert host.stage is not None
                own = host.stage.kv.bytes_per_token - host.stage.kv.kept.bytes_per_token
                assert own == sum(planned[stage.first_unit : stage.last_unit + 1])
            kept_bytes[kv_dtype] = sum(planned)
            assert ("keys and values int8" in model.profile.numbers) == (kv_dtype == "int8")
    assert kept_bytes["int8"] < 0.35 * kept_bytes["auto"]  # of 32 bits


def test_a_session_that_has_room_in_8_bits_only(tiny: Path) -> None:
    small = {"kv_memory_bytes": 60 * 700}
    with loaded(tiny, [6], **small) as (_, model), pytest.raises(KVMemorySpent):
        answer(model, LONG)
    with load(tiny, [6], **small) as (_, model):
        assert answer(model, LONG) == alone(tiny, LONG)


def test_a_second_turn_goes_on_from_the_rows_that_are_there(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)
    with load(tiny) as (_, model):
        ids = LONG[:12]
        for _ in range(3):
            found = answer(model, ids)
            assert found == alone(tiny, ids)
            ids = ids + found + [21, 22, 23]
        other = [*ids[:30], 9, 9]
        [copied] = model.generate([other], max_new_tokens=NUM_TOKENS)
        assert copied.cached_prompt_tokens >= 30
        assert copied.token_ids == alone(tiny, other)


@pytest.mark.parametrize("way", [{}, {"temperature": 0.9, "top_k": 40, "seed": 5}])
def test_guesses_change_no_token(tiny: Path, way: dict[str, Any]) -> None:
    with load(tiny) as (_, model):
        for prompt in (PROMPT, LONG, PROMPT * 3):
            assert answer(model, prompt, speculate="lookup", **way) == answer(model, prompt, **way)


@pytest.mark.usefixtures("quick_watch")
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_loss_changes_no_token(tiny: Path, expected: list[int], lost: str) -> None:
    with load(tiny) as (ring, model):
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(5):
            next(stream)
        ring.network.kill(lost)
        "".join(stream)
        assert stream.result.token_ids == expected
        assert all(host.stage.shard.kv_dtype == "int8" for host in stages_of(ring) if host.stage is not None)


@pytest.mark.usefixtures("quick_watch")
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_what_is_kept_hot_is_copied_bit_for_bit(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    with load(tiny, standby="hot") as (ring, model):
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.003)
        wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        kept = rings_of(model).standby
        assert kept is not None
        [ready] = [each for each in kept.ready if model.plan.device_of(each.first_unit) == lost]
        [host] = [each for each in stages_of(ring) if is_at(each, ready.device, ready.first_unit) and not in_ring(each)]
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(8):
            next(stream)
        wait_until(lambda: any(standing.length > 8 for standing in host.standings().result()))
        assert same_rows(host, [each for each in stages_of(ring) if in_ring(each)])
        ring.network.kill(lost)
        "".join(stream)
        assert stream.result.token_ids == expected


def is_at(host: StageHost, device: str, first_unit: int) -> bool:
    return host.stop.device == device and host.stop.first_unit == first_unit


def in_ring(host: StageHost) -> bool:
    return len(host._spec.ring) > 1


def same_rows(follower: StageHost, owners: list[StageHost]) -> bool:
    """Whether all that is copied is as its owner has it."""
    assert follower.stage is not None
    [copied] = follower.stage.between_steps(partial(rows_of, follower)).result(10).values()
    held = [each for owner in owners for each in owner.stage.between_steps(partial(rows_of, owner)).result(10).values()]
    for layer, (keys, values) in copied.items():
        [(own_keys, own_values)] = [each[layer] for each in held if layer in each]
        num_tokens = min(keys.shape[1], own_keys.shape[1])
        assert num_tokens > 4 and keys.dtype == torch.int8
        if not torch.equal(keys[:, :num_tokens], own_keys[:, :num_tokens]):
            return False
        if not torch.equal(values[:, :num_tokens], own_values[:, :num_tokens]):
            return False
    return bool(copied)


def rows_of(host: StageHost) -> dict[int, dict[int, Any]]:
    assert host.stage is not None
    kv = host.stage.kv
    return {session: kv.export(session) for session in kv._sessions}


def test_what_is_no_way_to_keep_them_is_refused(tiny: Path) -> None:
    with pytest.raises(BadRequest, match="kv_dtype must be one of auto, int8"), loaded(tiny, SPLIT, kv_dtype="int4"):
        pass
