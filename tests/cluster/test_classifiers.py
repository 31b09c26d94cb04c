"""A classifier over a whole ring in this process: nobody has text of it, neither here nor as a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import load, loaded, ring_in_process
from lasting_in_process import lasting_in_process
from tiny_text_model import save_text_model
from transformers import AutoModelForSequenceClassification

from shardnet.cluster.model import Model
from shardnet.coordinator import requests
from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.plan import Classifier
from shardnet.session.options import GenerationOptions
from shardnet.session.request import require_writer

LABELS = ("calm", "angry", "so-so")
ASKED: dict[str, Callable[[Model], Any]] = {
    "stream": lambda model: model.stream("Hello"),
    "generate": lambda model: model.generate([]),
    "converse": lambda model: model.converse([5, 6], GenerationOptions()),
    "score": lambda model: model.score("Hello"),
}


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("moods"), labels=LABELS)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_nobody_has_text_of_it(moods: Path, ask: Callable[[Model], Any]) -> None:
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, moods) as model:
        assert model.profile.classifier == Classifier(LABELS)
        assert [stage.num_units for stage in model.plan.stages] == [2, 2, 2]
        with pytest.raises(UnsupportedModel, match=r"is a classifier .* writes none"):
            ask(model)


def test_nor_has_a_source(moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own record says what the model is for; where it does not look, the coordinator does."""
    with lasting_in_process() as cluster, cluster.connect() as source:
        model = source.load(moods, dtype="float32", split=[3, 3])
        assert model.profile.classifier == Classifier(LABELS)
        for ask in ASKED.values():
            with pytest.raises(UnsupportedModel, match="is a classifier"):
                ask(model)
        monkeypatch.setattr("shardnet.cluster.model.require_writer", lambda profile: None)
        assert requests.require_writer is require_writer
        for ask in (ASKED["stream"], ASKED["score"]):
            with pytest.raises(UnsupportedModel, match="is a classifier"):
                list(ask(model))
        assert cluster.num_sessions() == 0


TEXTS = ["Hello", "The ferry leaves at seven.", [5, 6, 7, 8, 9, 10]]


def classified_alone(folder: Path, model: Model) -> list[list[float]]:
    """Scores of each text's labels as transformers has them."""
    whole = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    ids = [model.encode(text) for text in TEXTS]
    with torch.inference_mode():
        return [whole(torch.tensor([each])).logits[0].softmax(-1).tolist() for each in ids]


def check_classes(folder: Path, model: Model) -> None:
    found = model.classify(TEXTS)
    for each, expected in zip(found, classified_alone(folder, model), strict=True):
        assert each.labels == LABELS
        assert each.scores == pytest.approx(expected, abs=1e-5)
    assert [each.num_tokens for each in found] == [len(model.encode(text)) for text in TEXTS]
    assert model.logits(TEXTS[1]).shape == (found[1].num_tokens, len(LABELS))
    with pytest.raises(BadRequest, match="function_to_apply must be one of"):
        model.classify(TEXTS, function_to_apply="most")


@pytest.mark.parametrize("split", [[6], [2, 2, 2], [5, 1]])
def test_it_finds_the_classes_that_transformers_finds(moods: Path, split: list[int]) -> None:
    with loaded(moods, split) as (_, model):
        check_classes(moods, model)


def test_so_does_a_source(moods: Path) -> None:
    with lasting_in_process() as cluster, cluster.connect() as source:
        check_classes(moods, source.load(moods, dtype="float32", split=[3, 3]))
