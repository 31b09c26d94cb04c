"""A .gguf file in the bits that it has (`--weights auto`), with keys and values of 16 and of 8 bits, in whole rings:
neither splits, guesses, losses nor layers that move change a token, as C computes all of a row alike wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_gguf
from compiled import needs_compiler
from guesses import Oracle
from in_process_ring import RingInProcess, ring_in_process, rings_of
from processes import wait_until

from shardnet.cluster import standby
from shardnet.cluster.model import Model
from shardnet.plan import Plan, stages_from_counts
from shardnet.quantised.linear import held_in
from shardnet.session import beginnings
from shardnet.session.stream import Stream
from shardnet.stage import front

pytestmark = [
    pytest.mark.usefixtures("quick_watch"),
    needs_compiler,
]
NUM_TOKENS = 24
PROMPTS = [[5, 6, 7, 8, 9], [40, 41, 42, 40, 41], [7 + 3 * number for number in range(20)]]
KINDS = ("Q4_0", "Q4_1", "Q8_0")
KEPT = ("auto", "int8")
GREEDY: dict[str, Any] = {}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.2, "seed": 3}
LOOKING_UP: dict[str, Any] = {"speculate": "lookup"}
Texts = Callable[[str, str], tuple[Path, list[list[int]]]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    """A file with matrices of that kind, and what one device answers to each prompt, greedy and then sampled."""
    folder = tmp_path_factory.mktemp("files")
    known: dict[tuple[str, str], list[list[int]]] = {}

    def of(kind: str, kv_dtype: str) -> tuple[Path, list[list[int]]]:
        path = folder / f"{kind}.gguf"
        if not path.exists():
            tiny_gguf.write_gguf(path, kind=kind)
        if (kind, kv_dtype) not in known:
            with loaded(path, [4], kv_dtype=kv_dtype, share_prefixes=False) as (_, model):
                known[kind, kv_dtype] = [*answers(model, GREEDY), *answers(model, SAMPLED)]
        return path, known[kind, kv_dtype]

    return of


def answers(model: Model, how: dict[str, Any], **more: Any) -> list[list[int]]:
    return [each.token_ids for each in model.generate(PROMPTS, max_new_tokens=NUM_TOKENS, **how, **more)]


@contextmanager
def loaded(path: Path, split: list[int], **options: Any) -> Iterator[tuple[RingInProcess, Model]]:
    """By hand, so that nothing is timed: all devices have the same products. Answers are as long as was asked for."""
    with ring_in_process(len(split)) as ring, ring.connect() as cluster:
        with cluster.load(path, split=split, prefill_chunk_tokens=4, **options) as model:
            model.eos_ids = ()
            yield ring, model


def guess_well(patch: pytest.MonkeyPatch, texts: list[list[int]]) -> Oracle:
    """Most of what is guessed is right from now on."""
    oracle = Oracle([prompt + each for prompt, each in zip(PROMPTS * 2, texts, strict=True)], 0.8)
    patch.setattr(front, "Guesser", oracle.guesser)
    return oracle


def slow_down(ring: RingInProcess) -> None:
    for one in ring.names:
        for other in ring.names:
            ring.network.delay(one, other, 0.002)


def held_by(ring: RingInProcess) -> set[str]:
    """The kernels of all matrices, and what keys and values are kept in."""
    hosts = [host for worker in ring.workers.values() for host in worker._stages.hosts()]
    shards = [host.stage.shard for host in hosts if host.stage is not None]
    kernels = {each.kernel.name for shard in shards for unit in shard.units for _, each in held_in(unit.modules)}
    return kernels | {shard.kv_dtype for shard in shards}


@pytest.mark.parametrize("kv_dtype", KEPT)
@pytest.mark.parametrize("kind", KINDS)
def test_every_split_gives_the_text_of_one_device(
    texts: Texts, kind: str, kv_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = texts(kind, kv_dtype)
    for split in ([4], [1, 2, 1], [3, 1], [1, 1, 1, 1]):
        with loaded(path, split, kv_dtype=kv_dtype) as (ring, model), monkeypatch.context() as patch:
            assert held_by(ring) == {"native", kv_dtype}
            assert [*answers(model, GREEDY), *answers(model, SAMPLED)] == expected
            oracle = guess_well(patch, expected)
            found = [*answers(model, GREEDY, **LOOKING_UP), *answers(model, SAMPLED, **LOOKING_UP)]
            assert found == expected and oracle.num_right > 20


@pytest.mark.parametrize("kept", ["hot", "warm", "cold"])
@pytest.mark.parametrize("kv_dtype", KEPT)
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_loss_in_the_midst_of_guesses_changes_no_token(
    texts: Texts, kv_dtype: str, kept: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = texts("Q4_1", kv_dtype)
    oracle = guess_well(monkeypatch, expected)
    turns = [prompt + each for prompt, each in zip(PROMPTS, expected[: len(PROMPTS)], strict=True)]
    with loaded(path, [1, 2, 1], kv_dtype=kv_dtype, standby=kept) as (ring, model):
        slow_down(ring)
        if kept != "cold":
            wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        streams = begun(model)
        for _ in range(6):
            next(streams[0])
        ring.network.kill(lost)
        assert ended(streams) == expected
        assert lost not in model.plan.devices and oracle.num_right > 10
        second = [each.token_ids for each in model.generate(turns, max_new_tokens=8)]
    with loaded(path, [4], kv_dtype=kv_dtype, share_prefixes=False) as (_, model):
        assert [each.token_ids for each in model.generate(turns, max_new_tokens=8)] == second


@pytest.mark.parametrize("kv_dtype", KEPT)
def test_layers_move_in_the_midst_of_guesses(texts: Texts, kv_dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected = texts("Q4_1", kv_dtype)
    guess_well(monkeypatch, expected)
    with loaded(path, [1, 2, 1], kv_dtype=kv_dtype) as (ring, model):
        slow_down(ring)
        for names, counts in (("abc", [2, 1, 1]), ("a", [4]), ("bc", [1, 3]), ("cab", [1, 1, 2]), ("abc", [1, 2, 1])):
            streams = begun(model)
            next(streams[0])
            plan = Plan(stages_from_counts(list(names), counts))
            assert rings_of(model).go_over(lambda *_, plan=plan: plan)
            assert ended(streams) == expected, (names, counts)
        assert held_by(ring) == {"native", kv_dtype}


def begun(model: Model) -> list[Stream]:
    return [
        model.stream(prompt, max_new_tokens=NUM_TOKENS, **LOOKING_UP, **how)
        for how in (GREEDY, SAMPLED)
        for prompt in PROMPTS
    ]


def ended(streams: list[Stream]) -> list[list[int]]:
    for stream in streams:
        "".join(stream)
    return [stream.result.token_ids for stream in streams]
