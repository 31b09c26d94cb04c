"""Each task over a ring in this process, and by transformers' own pipeline on the same tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import loaded
from tiny_text_model import save_text_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers import (
    pipeline as whole_pipeline,
)

import shardnet
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, UnsupportedModel

TEXTS = ["Hello", "The ferry leaves at seven.", "A clock without hands."]
NLI = ("contradiction", "neutral", "entailment")
SPLITS = ([6], [2, 2, 2])


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("writer"), ends=False)


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(
        tmp_path_factory.mktemp("nli"),
        labels=NLI,
        label2id={name: number for number, name in enumerate(NLI)},
        pad_token_id=256,
    )


@pytest.fixture(scope="module", params=SPLITS, ids=["whole", "split"])
def of_writer(request: pytest.FixtureRequest, writer: Path) -> Iterator[Model]:
    with loaded(writer, request.param) as (_, model):
        yield model


@pytest.fixture(scope="module", params=SPLITS, ids=["whole", "split"])
def of_nli(request: pytest.FixtureRequest, nli: Path) -> Iterator[Model]:
    with loaded(nli, request.param) as (_, model):
        yield model


def whole(task: str, folder: Path, kind: Any) -> Any:
    """The pipeline of transformers."""
    model = kind.from_pretrained(folder, dtype=torch.float32)
    return whole_pipeline(task, model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")


def alike(found: Any, expected: Any) -> None:
    """The same names, texts and shapes, and numbers as they are rounded."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            alike(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("arguments", [{}, {"top_k": 1}, {"top_k": None}, {"top_k": 2}, {"function_to_apply": "none"}])
def test_text_classification_is_that_of_transformers(nli: Path, of_nli: Model, arguments: dict[str, Any]) -> None:
    ours, theirs = (
        shardnet.pipeline("text-classification", of_nli),
        whole("text-classification", nli, AutoModelForSequenceClassification),
    )
    for asked in (TEXTS[0], TEXTS):
        alike(ours(asked, **arguments), theirs(asked, **arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {"candidate_labels": ["calm", "angry", "so-so"]},
        {"candidate_labels": "calm, angry", "multi_label": True},
        {"candidate_labels": ["calm"], "hypothesis_template": "They are {}, it seems."},
    ],
)
def test_zero_shot_classification_is_that_of_transformers(nli: Path, of_nli: Model, arguments: dict[str, Any]) -> None:
    ours = shardnet.pipeline("zero-shot-classification", of_nli)
    theirs = whole("zero-shot-classification", nli, AutoModelForSequenceClassification)
    for asked in (TEXTS[0], TEXTS):
        alike(ours(asked, **arguments), theirs(asked, **arguments))


def test_feature_extraction_is_that_of_transformers(writer: Path, of_writer: Model) -> None:
    ours, theirs = shardnet.pipeline("feature-extraction", of_writer), whole("feature-extraction", writer, AutoModel)
    for asked in (TEXTS[0], TEXTS):
        alike(ours(asked), theirs(asked))
    [rows] = ours(TEXTS[1])
    alike(ours(TEXTS[1], pooling="mean"), torch.tensor(rows).mean(dim=0).tolist())
    alike(ours(TEXTS[1], pooling="last"), rows[-1])


@pytest.mark.parametrize("arguments", [{}, {"return_full_text": False}])
def test_text_generation_is_that_of_transformers(writer: Path, of_writer: Model, arguments: dict[str, Any]) -> None:
    ours, theirs = (
        shardnet.pipeline("text-generation", of_writer),
        whole("text-generation", writer, AutoModelForCausalLM),
    )
    chat = [{"role": "user", "content": "Hello"}]
    for asked in (TEXTS[0], TEXTS, chat, [chat, chat]):
        alike(ours(asked, max_new_tokens=8, **arguments), theirs(asked, max_new_tokens=8, do_sample=False, **arguments))


def test_several_answers_are_drawn_and_a_seed_draws_them_again(of_writer: Model) -> None:
    pipe = shardnet.pipeline("text-generation", of_writer, max_new_tokens=8, do_sample=True, num_return_sequences=3)
    answers = pipe("Hello", seed=4)
    assert len({each["generated_text"] for each in answers}) == 3
    assert pipe("Hello", seed=4) == answers
    assert pipe(["Hello"], seed=4) == [answers]
    assert pipe([]) == []


def test_a_model_that_writes_labels_by_how_likely_it_goes_on(of_writer: Model) -> None:
    labels = ["calm", "angry as a bear"]
    pipe = shardnet.pipeline("zero-shot-classification", of_writer, candidate_labels=labels)
    for normalized in (False, True):
        found = pipe(TEXTS[1], length_normalized=normalized)
        likely = []
        for label in labels:
            one = of_writer.score(f"{TEXTS[1]}\nThis example is {label}.")
            num_behind = len(f" {label}.")
            likely.append(sum(one.log_likelihoods[-num_behind:]) / (num_behind if normalized else 1))
        expected = dict(zip(labels, torch.tensor(likely).softmax(-1).tolist(), strict=True))
        assert found["sequence"] == TEXTS[1]
        assert found["scores"] == sorted(found["scores"], reverse=True)
        alike(
            dict(zip(found["labels"], found["scores"], strict=True)), {each: expected[each] for each in found["labels"]}
        )
    as_classes = shardnet.pipeline("text-classification", of_writer, candidate_labels=labels)
    best = pipe(TEXTS[1])
    alike(as_classes(TEXTS[1]), [{"label": best["labels"][0], "score": best["scores"][0]}])


def test_a_long_text_is_classified_in_parts_by_their_mean(of_nli: Model) -> None:
    pipe = shardnet.pipeline("text-classification", of_nli, top_k=None)
    first, second = "x " * 2000, "y" * 4096
    found = pipe(f"{first}\n\n{second}")
    parts = [{each["label"]: each["score"] for each in pipe(part)} for part in (f"{first}\n\n", second)]
    for each in found:
        assert each["num_parts"] == 2
        assert each["score"] == pytest.approx(sum(part[each["label"]] for part in parts) / 2, abs=1e-5)


def test_a_long_text_is_summarized_in_parts_and_then_these(of_writer: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    generate = of_writer.generate
    monkeypatch.setattr(
        of_writer, "generate", lambda prompts, **options: asked.append(len(prompts)) or generate(prompts, **options)
    )
    pipe = shardnet.pipeline("summarization", of_writer, max_new_tokens=4)
    [found] = pipe("A sentence of words. " * 400)
    assert asked == [3, 1]
    assert found.keys() == {"summary_text", "is_cut_off"}
    short, long = pipe(["One.", "A sentence of words. " * 400])
    assert long == found
    assert short == pipe("One.")[0]


def test_paragraphs_are_translated_in_order_and_what_is_between_stays(of_writer: Model) -> None:
    pipe = shardnet.pipeline("translation", of_writer, max_new_tokens=64, tgt_lang="French", src_lang="German")
    [found] = pipe("  Eins.\n\nZwei.\n")
    one, two = pipe(["Eins.", "Zwei."])
    assert found["translation_text"] == f"  {one['translation_text']}\n\n{two['translation_text']}\n"


def test_a_prompt_of_ones_own_takes_the_place(of_writer: Model) -> None:
    pipe = shardnet.pipeline("summarization", of_writer, max_new_tokens=8, prompt="Shorter: {text} Now:")
    [answer] = of_writer.generate([[{"role": "user", "content": "Shorter: Hello Now:"}]], max_new_tokens=8)
    assert pipe("Hello")[0]["summary_text"] == answer.text.strip()


@pytest.mark.parametrize(
    ("task", "arguments", "text", "said"),
    [
        ("translation", {}, "x", "needs tgt_lang"),
        ("summarization", {"min_length": 3}, "x", "summarization takes no min_length. It takes batch_size"),
        ("summarization", {"top_k": 3}, "x", "top_k is for tokens that are drawn"),
        ("summarization", {"prompt": "no place"}, "x", "prompt must have {text} once"),
        ("summarization", {"max_new_tokens": 4090}, "x", "leave no room for a text"),
        ("text-generation", {"temperature": 0.0, "do_sample": True}, "x", "temperature must be above 0"),
        ("text-generation", {"num_return_sequences": 2}, "x", "num_return_sequences is for tokens that are drawn"),
        ("text-generation", {}, "  ", "is empty"),
        ("text-generation", {}, 5, "a text or a list of texts"),
        ("zero-shot-classification", {}, "x", "needs candidate_labels"),
        ("zero-shot-classification", {"candidate_labels": ["a", "a"]}, "x", "twice"),
        ("zero-shot-classification", {"candidate_labels": "a", "multi_label": True}, "x", "multi_label is nothing for"),
        ("zero-shot-classification", {"candidate_labels": "a", "hypothesis_template": "no"}, "x", "must have {} once"),
        ("feature-extraction", {"pooling": "most"}, "x", "pooling must be one of"),
        ("question-answering", {}, "x", "the task must be one of"),
    ],
)
def test_what_is_impossible_is_one_sentence(of_writer: Model, task: str, arguments: Any, text: Any, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        shardnet.pipeline(task, of_writer)(text, **arguments)
    assert said in str(refused.value)


def test_labels_are_those_of_the_model(of_writer: Model, of_nli: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"no labels of its own\. Give candidate_labels"):
        shardnet.pipeline("text-classification", of_writer)("x")
    with pytest.raises(BadRequest, match="has labels of its own"):
        shardnet.pipeline("text-classification", of_nli, candidate_labels="a,b")("x")
    with pytest.raises(UnsupportedModel, match="is a classifier"):
        shardnet.pipeline("summarization", of_nli)("x")
    with loaded(save_text_model(tmp_path, labels=("calm", "angry")), [6]) as (_, moods):
        with pytest.raises(BadRequest, match="needs a classifier with a label entailment"):
            shardnet.pipeline("zero-shot-classification", moods, candidate_labels="a")("x")


def test_model_and_cluster_go_together(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="name a model"):
        shardnet.pipeline("summarization")
    with pytest.raises(BadRequest, match="leave one of them out"):
        shardnet.pipeline("summarization", str(tmp_path), devices=2, cluster="127.0.0.1:1")
