"""The file that shardnet and llama.cpp are measured with (`bench/rivals/chain_model.py`)."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from rivals.chain_model import Shape, chain_of, said_after, write_chain_model
from rivals.texts import LONGEST, PROMPTS, RUNS, played_back, runs_of

import shardnet
from shardnet.loader.sources import find_embedded

SMALL = Shape(hidden=256, intermediate=512, blocks=2, heads=4, kv_heads=2, vocabulary=2000, context=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain_model(tmp_path_factory.mktemp("chain") / "chain.gguf", find_embedded(), SMALL)


def test_its_weights_have_the_scale_of_a_trained_model(model: Path) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    spread = {name: gguf.dequantize(each.data, each.tensor_type).std() for name, each in tensors.items()}
    assert spread["token_embd.weight"] == pytest.approx(1, rel=0.05)
    assert spread["blk.1.ffn_up.weight"] == pytest.approx(SMALL.hidden**-0.5, rel=0.05)
    assert spread["output.weight"] == pytest.approx(SMALL.hidden**-0.5, rel=0.1)
    assert tensors["output.weight"].tensor_type == gguf.GGMLQuantizationType.Q6_K


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # with bfloat16 its few bits are kept
def test_it_says_the_tokens_of_its_chain(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path))
    chain = chain_of(SMALL)
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        loaded = cluster.load(str(model), dtype=dtype, split=(2, 2), standby="none")
        broken = [*chain[5:20], 1500, *chain[18:30]]
        [after_a_piece, after_a_break, from_afar] = loaded.generate([chain[5:20], broken, [7]], max_new_tokens=20)
    assert after_a_piece.token_ids == chain[20:40]
    assert after_a_break.token_ids == chain[30:50]
    assert from_afar.token_ids == chain[8:28]


def test_its_draft_agrees_on_as_many_tokens_as_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path))
    shape = replace(SMALL, hidden=512, blocks=3, wrong=0.3)
    draft = write_chain_model(tmp_path / "draft.gguf", find_embedded(), shape)
    chain, said = chain_of(SMALL), said_after(shape)
    assert chain == chain_of(shape) and sorted(said.values()) == sorted(chain)
    agrees = [said[token] == following for token, following in itertools.pairwise(chain)]
    assert sum(agrees) / len(agrees) == pytest.approx(0.7, abs=0.03)
    with shardnet.Cluster.local(1, threads_per_device=1) as cluster:
        loaded = cluster.load(str(draft), standby="none")
        [answer] = loaded.generate([chain[5:20]], max_new_tokens=60)
    before = [chain[19], *answer.token_ids]
    assert answer.token_ids == [said[token] for token in before[:-1]]


def test_a_played_back_prompt_is_found_in_just_such_runs() -> None:
    chain = chain_of(Shape())
    assert RUNS.keys() == PROMPTS.keys()
    for runs in [(0, 3, 0, 0, 5, 1, 12, 0), *RUNS.values()]:
        num_tokens = sum(run + 1 for run in runs)
        answer = chain[LONGEST : LONGEST + num_tokens]
        assert runs_of(played_back(runs, chain), answer) == list(runs)
