"""What is made of a classifier's logits is what transformers' pipeline makes of them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.pipelines.text_classification import TextClassificationPipeline

from shardnet.errors import BadRequest
from shardnet.plan import Classifier
from shardnet.session.classes import FUNCTIONS, classes_of, function_for, pooled

TASKS = ("", "regression", "single_label_classification", "multi_label_classification")


def by_transformers(logits: list[float], task: str, asked: str | None) -> list[dict[str, Any]]:
    labels = {at: f"class {at}" for at in range(len(logits))}
    config = SimpleNamespace(problem_type=task or None, num_labels=len(logits), id2label=labels)
    pipeline = object.__new__(TextClassificationPipeline)
    pipeline.model = SimpleNamespace(config=config)
    _, _, asked_so = pipeline._sanitize_parameters(function_to_apply=asked, top_k=None)
    found: list[dict[str, Any]] = pipeline.postprocess({"logits": torch.tensor([logits])}, **asked_so)
    return found


@given(
    st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=7),
    st.sampled_from(TASKS),
    st.sampled_from((None, *FUNCTIONS)),
)
def test_scores_are_those_of_transformers(logits: list[float], task: str, asked: str | None) -> None:
    if task == "single_label_classification" and len(logits) == 1:
        return  # which no configuration of transformers may say
    classifier = Classifier(tuple(f"class {at}" for at in range(len(logits))), task)
    found = classes_of(classifier, logits, function_for(classifier, asked), 5, "tiny")
    expected = {each["label"]: each["score"] for each in by_transformers(logits, task, asked)}
    assert dict(zip(found.labels, found.scores, strict=True)) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert [score for _, score in found.ranked()] == sorted(found.scores, reverse=True)
    assert (found.label, found.score) == (found.labels[int(np.argmax(found.scores))], max(found.scores))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.sampled_from((None, 0, 1)))
def test_the_row_is_that_which_transformers_pools(ids: list[int], pad_id: int | None) -> None:
    """As `GenericForSequenceClassification.forward` reckons it, where a pad is; nothing but pads: the first one."""
    row = torch.tensor([ids])
    wanted = len(ids) - 1 if pad_id is None else int((torch.arange(len(ids)) * (row != pad_id).int()).argmax(-1))
    assert pooled(ids, pad_id) == ids[: wanted + 1]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_number_is_no_class(function: str) -> None:
    with pytest.raises(BadRequest, match="tiny for this text are no finite numbers"):
        classes_of(Classifier(("a", "b")), [1.0, math.nan], function, 3, "tiny")


def test_no_other_function_is_applied() -> None:
    with pytest.raises(BadRequest, match="must be one of softmax, sigmoid, none, but is 'tanh'"):
        function_for(Classifier(("a",)), "tanh")
