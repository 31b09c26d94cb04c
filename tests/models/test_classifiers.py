"""Classifiers of every family that has them: over every cut their scores are those of the whole transformers model."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_models import LABELS, NO_CLASSIFIER, VARIANTS, make_model, save_model
from torch import nn

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.loader import load_shard, open_model, read_config
from shardnet.models.heads import classifier_of, is_classifier
from shardnet.models.plain_config import PlainConfig, as_text, from_text, full_config, values_of
from shardnet.models.skeleton import build_skeleton, skeleton_to_run
from shardnet.plan import Classifier

CHUNKS = (7, 4, 1)
CLASSIFIERS = [name for name, (family, _) in VARIANTS.items() if family not in NO_CLASSIFIER]


def config_of(variant: str, **said: Any) -> Any:
    from transformers import CONFIG_MAPPING

    family, sizes = VARIANTS[variant]
    config = CONFIG_MAPPING[family](**sizes, id2label=dict(enumerate(LABELS)), **said)
    config.architectures = ["AnyForSequenceClassification"]
    return config


@pytest.mark.parametrize("variant", CLASSIFIERS)
def test_every_cut_equals_the_whole_model(variant: str, tmp_path: Path) -> None:
    """The shards are made of the configuration as it comes to a device."""
    whole = save_model(variant, tmp_path, LABELS)
    files = open_model(str(tmp_path), "float32")
    last = files.profile.num_units - 1
    config, ids = (
        from_text(as_text(files.config)),
        torch.randint(3, 97, (12,), generator=torch.Generator().manual_seed(1)),
    )
    assert files.profile.classifier == Classifier(LABELS, "", whole.config.pad_token_id)
    with torch.inference_mode():
        expected = [whole(ids[None, : sum(CHUNKS[: end + 1])]).logits[0] for end in range(len(CHUNKS))]
    for cuts in ((), (1,), (2,), (last,), (1, last), (1, 2, 3, last)):
        edges = (0, *cuts, last + 1)
        chain = Chain(
            [
                load_shard(config, files.tensors_of(first, end - 1), first, end - 1, "float32")
                for first, end in pairwise(edges)
            ]
        )
        at = 0
        for length, wanted in zip(CHUNKS, expected, strict=True):
            scores = chain.step({0: ids[at : at + length]})
            at += length
            assert scores.shape == (1, 3) and scores.dtype == torch.float32
            assert (scores[0] - wanted).abs().max() < TOLERANCE, (cuts, at)


@pytest.mark.parametrize("variant", CLASSIFIERS)
def test_the_profile_says_what_the_head_takes_and_tells(variant: str) -> None:
    whole, config = make_model(variant, LABELS), config_of(variant)
    skeleton = build_skeleton(config, 0, config.num_hidden_layers + 1)
    slots = [slot for _, modules in skeleton.units() for slot in skeleton.slots(modules)]
    weights = {name: parameter.shape for name, parameter in whole.named_parameters()}
    assert {slot.name: slot.shape for slot in slots if not slot.is_buffer} == weights
    assert skeleton.tied == {} and list(skeleton.head)[-1] == "score"
    from shardnet.models.sizes import profile_model

    head = profile_model(config, "bfloat16", "tiny").units[-1]
    assert head.output_bytes == 3 * 4 and head.name == "head"
    assert head.num_parameters == sum(slot.shape.numel() for slot in skeleton.slots(skeleton.head))


@pytest.mark.parametrize("variant", ["llama", "llama-tied", "qwen3", "gemma2", "smollm3"])
def test_a_device_makes_the_head_without_transformers(variant: str) -> None:
    """Tied or not, and no logits are capped."""
    config = config_of(variant)
    last = config.num_hidden_layers + 1
    own, stock = skeleton_to_run(from_text(as_text(config)), 0, last), build_skeleton(config, 0, last)
    assert own.frame is None
    for each in (own, stock):
        assert [(path, type(module).__name__) for path, module in each.head.items()][-1] == ("score", "Linear")
        assert each.family.finish(config, torch.tensor([[100.0]])).item() == 100.0
    assert own.tied == stock.tied == {}


@pytest.mark.parametrize("scheme", ["int4", "int8", "w8a8"])
def test_what_tells_classes_apart_stays_in_floats(scheme: str, tmp_path: Path) -> None:
    whole = save_model("llama", tmp_path, LABELS)
    files = open_model(str(tmp_path), "float32", weights=scheme)
    last = files.profile.num_units - 1
    head = load_shard(files.config, files.tensors_of(last, last), last, last, "float32", scheme=scheme)
    score = head.modules["score"]
    assert type(score) is nn.Linear and torch.equal(score.weight, whole.score.weight)
    assert files.profile.units[last].weight_bytes == 4 * (32 + 3 * 32)
    assert files.profile.units[1].weight_bytes < 4 * files.profile.units[1].num_parameters


@pytest.mark.parametrize("family", NO_CLASSIFIER)
def test_a_family_without_a_classifier_says_so(family: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"^This {family} model .* no classifier of that family\.$"):
        build_skeleton(config_of(family), 0, 4)


def test_labels_are_those_of_the_configuration() -> None:
    config = config_of("llama", problem_type="multi_label_classification")
    for each in (config, PlainConfig(values_of(config)), full_config(from_text(as_text(config)))):
        assert is_classifier(each)
        assert classifier_of(each) == Classifier(LABELS, "multi_label_classification", 0)
    config.architectures = ["LlamaForCausalLM"]
    assert classifier_of(config) is None and classifier_of(PlainConfig({"model_type": "llama"})) is None


@pytest.mark.parametrize("labels", [{}, {"0": "a", "2": "b"}, {"-1": "a"}, {"0": 7}, {"0": "a" * 201}, ["a"]])
def test_labels_that_are_none_are_refused(labels: Any) -> None:
    values = values_of(config_of("llama")) | {"id2label": labels}
    with pytest.raises(DamagedCheckpoint, match=r"(id2label|A label) of this llama model"):
        classifier_of(PlainConfig(values))


@pytest.mark.parametrize("task", ["TokenClassification", "QuestionAnswering", "MultipleChoice", "ProcessRewardModel"])
def test_other_heads_are_refused_by_name(task: str, tmp_path: Path) -> None:
    """With tied weights such a checkpoint was taken for one that writes text."""
    config = config_of("llama-tied")
    config.architectures = [f"LlamaFor{task}"]
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=rf"'LlamaFor{task}', and models can be cut that write text"):
        read_config(tmp_path)


def test_two_labels_need_no_list(tmp_path: Path) -> None:
    """transformers leaves out what is usual."""
    config = config_of("llama")
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    config.label2id = {"LABEL_0": 0, "LABEL_1": 1}
    config.save_pretrained(tmp_path)
    assert classifier_of(read_config(tmp_path)) == Classifier(("LABEL_0", "LABEL_1"), "", 0)


def test_a_checkpoint_of_a_model_that_writes_is_no_classifier(tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    config = config_of("llama")
    config.save_pretrained(tmp_path)
    with pytest.raises(DamagedCheckpoint, match=r"score\.weight of shape \[3, 32\] is not among them"):
        open_model(str(tmp_path), "float32")
