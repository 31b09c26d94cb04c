"""Stages give units up, and become one, while they hold sessions: every text goes on with its very own tokens."""

from __future__ import annotations

from random import Random

import pytest
import torch
from one_stage import RING, Road, feed, nothing, shard_of, spec, stage_of, standing, wait_for_length
from shaped_ring import Member, Request, ShapedRing
from tiny_models import TinyModel, tiny_model

from shardnet.codecs import rows
from shardnet.codecs.rows import Codec, codec_named
from shardnet.errors import BadRequest, ClusterError
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.stage import Stage
from shardnet.transport.messages import Hop, Part, Wanted
from shardnet.transport.session_messages import SamplingOptions

FAMILIES = ("llama", "llama-tied", "mistral", "qwen3_moe", "gemma2", "gpt2", "bloom", "opt-350m")
"""Dense, tied, with windows, with experts, capped, with learned positions, with attention of their own."""
NUM_TOKENS = 14
REQUESTS = [
    Request([5, 6, 7, 8, 9], NUM_TOKENS),
    Request([3 + 2 * number for number in range(31)], NUM_TOKENS),
    Request([40, 41], NUM_TOKENS, SamplingOptions(temperature=0.9, top_k=40, repetition_penalty=1.3, seed=5)),
    Request([60 + number for number in range(13)], NUM_TOKENS, SamplingOptions(temperature=1.1, top_p=0.9, seed=6)),
]


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_model(request.param, tmp_path_factory)


def undisturbed(tiny: TinyModel, kv_dtype: str = "auto") -> list[list[int]]:
    with ShapedRing(tiny, [tiny.num_units], Random(0), kv_dtype=kv_dtype) as ring:
        for session, request in enumerate(REQUESTS):
            ring.start(session, request)
        return ring.answers()


def change(ring: ShapedRing, random: Random, num_units: int, share_lost: float = 0.15) -> None:
    """Other borders; each unit stays where it is, or is lost, or goes to whoever has a neighbour of it."""
    borders = [0, *sorted(random.sample(range(1, num_units), random.randint(0, num_units - 1)))]
    owners: dict[int, Member | None] = {unit: member for member in ring.members for unit in member.units}
    for unit in range(num_units):
        if random.random() < share_lost:
            owners[unit] = None
    chosen: dict[int, Member | None] = {}
    used: set[int] = set()
    for unit in range(num_units):  # a stage goes on in one place: behind a gap it begins no more
        owner = owners[unit]
        goes_on = unit - 1 in chosen and chosen[unit - 1] is owner and unit not in borders
        if owner is None or (id(owner) in used and not goes_on):
            chosen[unit] = None
        else:
            chosen[unit] = owner
            used.add(id(owner))
    ring.part_anew(borders, chosen.get)


@pytest.mark.parametrize(("seed", "kv_dtype"), [(0, "auto"), (1, "auto"), (2, "auto"), (3, "int8")])
def test_texts_go_on_however_the_units_are_parted_anew(tiny: TinyModel, seed: int, kv_dtype: str) -> None:
    expected = undisturbed(tiny, kv_dtype)
    random = Random(seed)
    with ShapedRing(tiny, [2, 1, tiny.num_units - 3], random, kv_dtype=kv_dtype) as ring:
        for session, request in enumerate(REQUESTS):
            ring.start(session, request)
        for num_told in sorted(random.sample(range(len(REQUESTS) * NUM_TOKENS), 6)):
            ring.wait_for(num_told)
            change(ring, random, tiny.num_units)
            units = [unit for member in ring.members for unit in member.units]
            assert units == list(range(tiny.num_units))
            assert all(member.stage.kv.layout == member.stage.shard.kv_layout for member in ring.members)
        assert ring.answers() == expected
        ring.end_sessions()
        assert ring.budget.reserved_bytes == 0
        assert all(not member.stage.kv.extents for member in ring.members)


@pytest.mark.parametrize(("seed", "kv_dtype"), [(0, "auto"), (1, "auto"), (2, "auto"), (3, "auto"), (4, "int8")])
def test_texts_go_on_where_stages_take_part_that_were_kept_ready(llama: TinyModel, seed: int, kv_dtype: str) -> None:
    """They have copied some of what others had, whole, trimmed or joined, and then take the place of some of these."""
    expected = undisturbed(llama, kv_dtype)
    random = Random(100 + seed)
    with ShapedRing(llama, [2, 1, llama.num_units - 3], random, kv_dtype=kv_dtype) as ring:
        ring.stand_at(0)
        for session, request in enumerate(REQUESTS):
            ring.start(session, request)
        for num_told in sorted(random.sample(range(1, len(REQUESTS) * NUM_TOKENS), 8)):
            while len(ring.ready) < 6:
                first = random.randrange(llama.num_units)
                ring.keep_ready(first, min(first + random.choice((0, 0, 1, 2)), llama.num_units - 1))
            ring.stand_at(num_told)
            for _ in range(random.randrange(40)):
                ring.copy_some()
            ring.wait_for(num_told)
            for _ in range(random.randrange(10)):
                ring.copy_some()
            change(ring, random, llama.num_units, share_lost=0.35)
        ring.stand_at(1 << 30)
        assert ring.answers() == expected
        ring.end_sessions()
        assert ring.budget.reserved_bytes == 0


class Lossless(Codec):
    """It stands in for one of the smaller ones, and rounds nothing."""

    def width(self, hidden_size: int) -> int:
        return 4 * hidden_size


FORWARDS = Lossless(
    "int8", torch.int8, lambda hidden: hidden.view(torch.int8), lambda rows, _: rows.view(torch.float32)
)
BACKWARDS = Lossless(
    "fp8",
    torch.uint8,
    lambda hidden: hidden.view(torch.uint8).flip(1),
    lambda rows, _: rows.flip(1).view(torch.float32),
)


@pytest.mark.parametrize("seed", range(6))
def test_texts_go_on_in_whatever_codec_each_stage_sends_in_each_ring(
    llama: TinyModel, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Of stages that stay, are trimmed, joined, kept ready, and are sent again what was sent."""
    expected = undisturbed(llama)
    codecs = [codec_named("float32"), FORWARDS, BACKWARDS]
    monkeypatch.setattr(rows, "_BY_DTYPE", {codec.dtype: codec for codec in codecs})
    random = Random(200 + seed)
    with ShapedRing(llama, [2, 1, llama.num_units - 3], random, lambda _: random.choice(codecs)) as ring:
        ring.stand_at(0)
        for session, request in enumerate(REQUESTS):
            ring.start(session, request)
        for num_told in sorted(random.sample(range(1, len(REQUESTS) * NUM_TOKENS), 8)):
            while len(ring.ready) < 4:
                first = random.randrange(llama.num_units)
                ring.keep_ready(first, min(first + random.choice((0, 1, 2)), llama.num_units - 1))
            ring.stand_at(num_told)
            for _ in range(random.randrange(40)):
                ring.copy_some()
            ring.wait_for(num_told)
            change(ring, random, llama.num_units, share_lost=0.35)
        ring.stand_at(1 << 30)
        assert ring.answers() == expected
        ring.end_sessions()
        assert ring.budget.reserved_bytes == 0


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Of five units."""
    return tiny_model("llama", tmp_path_factory)


def trim(stage: Stage, first_unit: int, last_unit: int) -> None:
    stage.between_steps(lambda: stage.trim(first_unit, last_unit, codec_named("float32"))).result(timeout=5)


def join(stage: Stage, other: Stage) -> None:
    remains = other.between_steps(other.end_for_another).result(timeout=5)
    stage.between_steps(lambda: stage.join(remains)).result(timeout=5)


def hidden(num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, 32, generator=torch.Generator().manual_seed(1))


def test_memory_goes_with_what_it_was_taken_for(llama: TinyModel) -> None:
    budget = MemoryBudget(1 << 20)
    with (
        stage_of(shard_of(llama.folder, 1, 2), Road(), budget=budget) as stage,
        stage_of(shard_of(llama.folder, 3, 4), Road(), budget=budget) as other,
    ):
        for each in (stage, other):
            each.open_session(spec(1, 6))
            each.open_session(spec(2, 9))
        num_rows, sent_bytes, block_bytes = 14 + 17, 32 * 4, 2 * 8 * 2 * 4
        assert budget.reserved_bytes == num_rows * (3 * block_bytes + sent_bytes + 8)
        join(stage, other)
        assert budget.reserved_bytes == num_rows * (3 * block_bytes + 8)
        assert stage.usage() == (2, budget.reserved_bytes)
        trim(stage, 2, 3)
        assert budget.reserved_bytes == num_rows * (2 * block_bytes + sent_bytes)
        stage.open_session(spec(3, 2))
        assert stage.usage() == (3, (num_rows + 10) * (2 * block_bytes + sent_bytes))
        stage.close_sessions([1, 2, 3])
        assert budget.reserved_bytes == 0 and stage.kv.extents == []


def test_keys_and_values_stay_where_they_are_when_stages_become_one(llama: TinyModel) -> None:
    rows = hidden(6)
    with (
        stage_of(shard_of(llama.folder, 1, 1), Road()) as stage,
        stage_of(shard_of(llama.folder, 2, 2), Road()) as other,
    ):
        for each in (stage, other):
            each.open_session(spec(2, 9))
            each.open_session(spec(1, 6))
            feed(each, 1, 0, rows, nothing)
            wait_for_length(each, 1, 6)
        places = [each.kv.get(1).read(layer, 6)[0].data_ptr() for layer, each in enumerate((stage, other))]
        join(stage, other)
        assert [stage.kv.get(1).read(layer, 6)[0].data_ptr() for layer in (0, 1)] == places


def test_where_one_stage_has_fewer_tokens_the_whole_has_as_few(llama: TinyModel) -> None:
    rows = hidden(12)
    with (
        stage_of(shard_of(llama.folder, 1, 1), Road()) as stage,
        stage_of(shard_of(llama.folder, 2, 2), Road()) as other,
    ):
        for each, lengths in ((stage, {1: 2, 2: 8, 3: 4}), (other, {2: 5, 3: 0})):
            for session, length in lengths.items():
                each.open_session(spec(session, 12))
                if length:
                    feed(each, session, 0, rows[:length])
                    wait_for_length(each, session, length)
        join(stage, other)
        standings = stage.between_steps(stage.standings).result(timeout=5)
        assert [(one.session, one.length, one.kept_from) for one in standings] == [(2, 5, 0), (3, 0, 0)]


def test_what_comes_for_another_unit_is_dropped_and_answered(llama: TinyModel) -> None:
    rows, taken = hidden(6), []
    with stage_of(shard_of(llama.folder, 1, 3), Road()) as stage:
        stage.open_session(spec(1, 6))
        feed(stage, 1, 2, rows[2:], lambda: taken.append("waited"))
        trim(stage, 1, 2)
        assert taken == []
        trim(stage, 2, 2)
        assert taken == ["waited"], "it was for unit 1"
        stage.put(hop_for(1, rows), 0, lambda: taken.append("late"))
        assert taken == ["waited", "late"] and standing(stage, 1).length == 0
        stage.put(hop_for(2, rows), 0, nothing)
        wait_for_length(stage, 1, 6)


def hop_for(unit: int, rows: torch.Tensor) -> Hop:
    return Hop(RING, 0, (Part(1, 0, len(rows)),), rows, "before", 0, unit)


def test_what_cannot_be_is_refused_and_all_is_as_before(llama: TinyModel) -> None:
    with (
        stage_of(shard_of(llama.folder, 1, 2), Road()) as stage,
        stage_of(shard_of(llama.folder, 4, 4), Road()) as other,
    ):
        stage.open_session(spec(1, 6))
        for first, last in ((0, 1), (2, 3), (2, 1)):
            with pytest.raises(BadRequest, match=f"cannot be trimmed to units {first} to {last}"):
                trim(stage, first, last)
        remains = other.between_steps(other.end_for_another).result(timeout=5)
        with pytest.raises(BadRequest, match="units 4 to 4 cannot become part of one of units 1 to 2"):
            stage.between_steps(lambda: stage.join(remains)).result(timeout=5)
        with pytest.raises(ClusterError, match="part of another stage"):
            other.open_session(spec(1, 6))
        feed(stage, 1, 0, hidden(6), nothing)
        wait_for_length(stage, 1, 6)
        assert standing(stage, 1).kept_from == 0


def test_without_the_head_the_newest_session_goes_where_what_is_sent_finds_no_room(llama: TinyModel) -> None:
    """Hidden states take more than ids."""
    shard = shard_of(llama.folder, 3, 4)
    per_token = shard.kv_bytes_per_token + 8
    budget = MemoryBudget(3 * 14 * per_token + 14 * (32 * 4 - 8))
    with stage_of(shard, Road(), budget=budget) as stage:
        for session in (1, 2, 3):
            stage.open_session(spec(session, 6))
        trim(stage, 3, 3)
        assert [each.session for each in stage.between_steps(stage.standings).result(timeout=5)] == [1, 2]
        stage.close_sessions([1, 2, 3])
        assert budget.reserved_bytes == 0


def test_what_guesses_are_made_of_holds_each_token_once(llama: TinyModel) -> None:
    """Of two stages that become one the later one may have less: tokens come once more then. They were taken for the
    next ones once, and nothing was guessed right any more.
    """
    asked, prompt = spec(7, 5, 60), [5, 6, 7, 8, 9]
    asked = asked._replace(sampling=SamplingOptions(speculate="lookup"), guess_key=b"k" * 16)
    road, budget = Road(), MemoryBudget(1 << 26)
    with (
        stage_of(shard_of(llama.folder, 0, 1), road, budget=budget) as stage,
        stage_of(shard_of(llama.folder, 2, 3), Road(), budget=budget) as other,
    ):
        for each in (stage, other):
            each.open_session(asked)
        feed(stage, 7, 0, torch.tensor(prompt), nothing)
        wait_for_length(stage, 7, 5)
        for position in range(5, 12):
            feed(stage, 7, position, torch.tensor([20 + position]))
            wait_for_length(stage, 7, position + 1)
            for sent in road.take_all() if position < 10 else ():
                other.put(Hop(RING, 0, sent.parts, sent.rows, "before", 0, 2), 0, sent.on_taken)
        wait_for_length(other, 7, 10)
        join(stage, other)
        stage.between_steps(lambda: stage.begin_ring(2, 1)).result(timeout=5)
        stage.between_steps(lambda: stage.send_again([Wanted(7, 10, 12)])).result(timeout=5)
        for position in range(10, 15):
            feed(stage, 7, position, torch.tensor([20 + position]))
            wait_for_length(stage, 7, position + 1)
        live = stage._sessions.get(7)
        assert live is not None and live.guesser is not None
        ahead = live.guesser._ahead
        assert [ahead[at] for at in range(ahead.num_known)] == [*prompt, *range(25, 35)]
