"""GGUF files whose head tells classes apart, as llama.cpp writes rerankers: read as they are, or converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_gguf import SIZES, write_gguf

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.loader import glance_at, load_shard, open_model
from shardnet.loader.gguf import as_it_is
from shardnet.plan import Classifier

ROWS = np.random.default_rng(3).standard_normal((2, SIZES["hidden"])).astype(np.float32)


def write(path: Path, rows: np.ndarray, labels: list[str] | None, kind: str = "F32", body: str = "Q8_0") -> Path:
    def more(writer: gguf.GGUFWriter) -> None:
        stored = gguf.GGMLQuantizationType[kind]
        writer.add_tensor("cls.output.weight", gguf.quantize(rows, stored), raw_dtype=stored)
        if labels is not None:
            writer.add_classifier_output_labels(labels)
            writer.add_pooling_type(gguf.PoolingType.RANK)

    return write_gguf(path, kind=body, more=more)


@pytest.mark.parametrize("weights", ["auto", "float32", "int4"])
@pytest.mark.parametrize(("kind", "body"), [("F32", "Q8_0"), ("Q8_0", "Q8_0"), ("F16", "Q4_0")])
def test_its_scores_are_its_rows_times_the_last_hidden_state(
    tmp_path: Path, kind: str, body: str, weights: str
) -> None:
    """Beside the same file without that head, whose norm gives the hidden state."""
    path = write(tmp_path / "ranks.gguf", ROWS, ["yes", "no"], kind, body)
    files, plain = (
        open_model(str(each), "float32", weights=weights, cache_dir=tmp_path / "cache")
        for each in (path, write_gguf(tmp_path / "plain.gguf", kind=body))
    )
    assert files.profile.classifier == Classifier(("yes", "no"), "", 0) and plain.profile.classifier is None
    assert glance_at(str(path), "float32", cache_dir=tmp_path / "cache").num_labels == 2
    ids, last = torch.arange(3, 12), files.profile.num_units - 1

    def chain(of: Any, end: int) -> Chain:
        scheme = files.weights if weights == "auto" else weights
        return Chain([load_shard(of.config, of.tensors_of(0, end), 0, end, "float32", scheme=scheme)])

    norm = load_shard(plain.config, plain.tensors_of(last, last), last, last, "float32").modules["model.norm"]
    stored = gguf.GGMLQuantizationType[kind]
    score = torch.from_numpy(gguf.dequantize(gguf.quantize(ROWS, stored), stored).astype(np.float32))
    with torch.inference_mode():
        expected = norm(chain(plain, last - 1).step({0: ids})[-1:]) @ score.T
    assert (chain(files, last).step({0: ids}) - expected).abs().max() < TOLERANCE


def test_so_are_they_where_the_file_must_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ids = write(tmp_path / "ranks.gguf", ROWS, ["yes", "no"]), torch.arange(3, 12)
    scores = []
    for rules in (as_it_is.RULES, {}):
        monkeypatch.setattr(as_it_is, "RULES", rules)
        files = open_model(str(path), "float32", weights="float32", cache_dir=tmp_path / f"cache-{len(rules)}")
        assert (files.folder / "model.safetensors").exists() == (not rules)
        last = files.profile.num_units - 1
        scores.append(Chain([load_shard(files.config, files.tensors, 0, last, "float32")]).step({0: ids}))
    assert torch.equal(*scores)


def test_labels_that_it_does_not_name_are_numbered(tmp_path: Path) -> None:
    files = open_model(str(write(tmp_path / "ranks.gguf", ROWS, None)), "float32", cache_dir=tmp_path / "cache")
    assert files.profile.classifier == Classifier(("LABEL_0", "LABEL_1"), "", 0)


def test_labels_are_as_many_as_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "ranks.gguf", ROWS, ["yes", "no", "perhaps"])
    with pytest.raises(DamagedCheckpoint, match=r"names 3 labels, and cls\.output\.weight has 2 rows"):
        open_model(str(path), "float32", cache_dir=tmp_path / "cache")


LISTS: dict[str, Callable[[gguf.GGUFWriter], object]] = {
    "numbers": lambda writer: writer.add_array("llama.classifier.output_labels", [1, 2]),
    "many": lambda writer: writer.add_array("llama.classifier.output_labels", ["a"] * 2000),
}


@pytest.mark.parametrize("more", LISTS.values(), ids=LISTS)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, more: Callable[[gguf.GGUFWriter], object]) -> None:
    path = write_gguf(tmp_path / "ranks.gguf", more=more)
    with pytest.raises(DamagedCheckpoint, match="labels are no list of up to 1024 texts"):
        open_model(str(path), "float32", cache_dir=tmp_path / "cache")


def test_a_head_with_more_parts_is_refused(tmp_path: Path) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("cls.output.weight", ROWS)
        writer.add_tensor("cls.output.bias", ROWS[:, 0].copy())

    with pytest.raises(UnsupportedModel, match=r"a classifier with the tensor 'cls\.output\.bias', and only heads"):
        open_model(str(write_gguf(tmp_path / "ranks.gguf", more=more)), "float32", cache_dir=tmp_path / "cache")
