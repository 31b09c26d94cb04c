"""Tasks whose result is labels: text-classification and zero-shot-classification.

A classifier is asked as transformers' pipelines ask it. A model that writes is asked how likely it would go on with
each of some labels. A text that is longer than the context is read in parts; its scores are the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.foreign.quoting import quoted
from shardnet.plan import Classifier
from shardnet.tasks.names import CLASSES
from shardnet.tasks.options import HYPOTHESIS, TaskOptions
from shardnet.tasks.parts import parts_of

FOR_CLASSIFIERS = ("function_to_apply", "multi_label")
FOR_WRITERS = ("length_normalized",)


class Labelled(NamedTuple):
    """What was found of one text."""

    labels: Sequence[str]
    scores: Sequence[float]
    """Of each."""
    num_parts: int

    def ranked(self) -> list[tuple[str, float]]:
        """The greatest score first."""
        return sorted(zip(self.labels, self.scores, strict=True), key=lambda pair: -pair[1])


Label = Callable[[Sequence[str]], list[Labelled]]
"""What finds labels of texts."""


def mean_of(parts: Sequence[Labelled]) -> Labelled:
    """Of the parts of one text."""
    scores = torch.tensor([part.scores for part in parts], dtype=torch.float64).mean(dim=0)
    return Labelled(parts[0].labels, scores.tolist(), len(parts))


def in_parts(texts: Sequence[str], cut: Callable[[str], list[str]], label: Label) -> list[Labelled]:
    """All parts of all texts are labelled together."""
    parts = [cut(text) for text in texts]
    found = iter(label([part for each in parts for part in each]))
    return [mean_of(list(islice(found, len(each)))) for each in parts]


class Classifying:
    """text-classification by a classifier."""

    def __init__(self, model: Model, asked: TaskOptions) -> None:
        self._model, self._function = model, asked.function_to_apply

    def label(self, texts: Sequence[str]) -> list[Labelled]:
        """Its own labels."""
        return in_parts(texts, self._cut, self._label)

    def _label(self, parts: Sequence[str]) -> list[Labelled]:
        found = self._model.classify(parts, function_to_apply=self._function)
        return [Labelled(each.labels, each.scores, 1) for each in found]

    def _cut(self, text: str) -> list[str]:
        most = self._model.context_tokens
        return parts_of(text, lambda part: len(self._model.encode(part)) <= most)


class Entailing:
    """zero-shot-classification by a classifier that knows what follows from what.

    Raises:
        BadRequest: it has no label for that.
    """

    def __init__(self, model: Model, classifier: Classifier, asked: TaskOptions) -> None:
        self._model = model
        self._labels = tuple(asked.candidate_labels or ())
        self._hypotheses = [(asked.hypothesis_template or HYPOTHESIS).replace("{}", label) for label in self._labels]
        self._is_multi = bool(asked.multi_label) or len(self._labels) == 1
        names = [label.lower() for label in classifier.labels]
        found = [index for index, name in enumerate(names) if name.startswith("entail")]
        if not found or len(names) < 2:
            raise BadRequest(
                f"zero-shot-classification needs a classifier with a label entailment, but {model.profile.name} has "
                f"{', '.join(classifier.labels)}. Name one that was trained on NLI, or a model that writes text."
            )
        self._entailment = found[0]
        self._contradiction = len(names) - 1 if self._entailment == 0 else 0

    def label(self, texts: Sequence[str]) -> list[Labelled]:
        """The candidates."""
        return in_parts(texts, self._cut, self._label)

    def _label(self, parts: Sequence[str]) -> list[Labelled]:
        pairs = [self._pair(part, hypothesis) for part in parts for hypothesis in self._hypotheses]
        logits = torch.tensor([each.scores for each in self._model.classify(pairs, function_to_apply="none")])
        each_part = logits.reshape(len(parts), len(self._labels), -1)
        return [Labelled(self._labels, self._scores(logits_LC), 1) for logits_LC in each_part]

    def _scores(self, logits_LC: Tensor) -> list[float]:
        if self._is_multi:
            pair = logits_LC[:, [self._contradiction, self._entailment]]
            scores: list[float] = pair.softmax(-1)[:, 1].tolist()
        else:
            scores = logits_LC[:, self._entailment].softmax(-1).tolist()
        return scores

    def _pair(self, text: str, hypothesis: str) -> list[int]:
        return list(self._model.tokenizer(text, hypothesis)["input_ids"])

    def _cut(self, text: str) -> list[str]:
        most = self._model.context_tokens
        longest = max(self._hypotheses, key=len)
        fits = lambda part: max(len(self._pair(part, each)) for each in self._hypotheses) <= most  # noqa: E731
        if not fits("x"):
            raise BadRequest(f"the hypothesis {quoted(longest)} leaves no room for a text. Shorten it.")
        return parts_of(text, fits)


class GoingOn:
    """Both tasks by a model that writes: how likely it goes on with each label, among all labels."""

    def __init__(self, model: Model, asked: TaskOptions) -> None:
        self._model = model
        self._labels = tuple(asked.candidate_labels or ())
        before, behind = (asked.hypothesis_template or HYPOTHESIS).split("{}")
        self._before, self._behind = f"\n{before}", behind
        self._is_normalized = bool(asked.length_normalized)

    def label(self, texts: Sequence[str]) -> list[Labelled]:
        """The candidates."""
        return in_parts(texts, self._cut, self._label)

    def _label(self, parts: Sequence[str]) -> list[Labelled]:
        pairs = [(part + self._before, label + self._behind) for part in parts for label in self._labels]
        found = self._model.score_pairs(pairs)
        likely = [one.mean_log_likelihood if self._is_normalized else one.log_likelihood for one in found]
        each_part = torch.tensor(likely, dtype=torch.float64).reshape(len(parts), len(self._labels))
        return [Labelled(self._labels, row.softmax(-1).tolist(), 1) for row in each_part]

    def _cut(self, text: str) -> list[str]:
        most = self._model.context_tokens
        said = [f"{self._before}{label}{self._behind}" for label in self._labels]
        fits = lambda part: max(len(self._model.encode(part + each)) for each in said) <= most  # noqa: E731
        if not fits("x"):
            raise BadRequest("hypothesis_template and a label leave no room for a text in the context. Shorten them.")
        return parts_of(text, fits)


class Labelling:
    """What performs either task.

    Args:
        has_best_alone: whether text-classification gives one label of each text, and not a list.

    Raises:
        BadRequest: labels are missing, or something is for the other kind of model.
        UnsupportedModel: a model that writes, and no labels.
    """

    def __init__(self, model: Model, task: str, asked: TaskOptions, *, has_best_alone: bool) -> None:
        self._task, self._asked, self._has_best_alone = task, asked, has_best_alone
        self._label = _label_of(model, task, asked)

    def run(self, texts: Sequence[str]) -> Iterator[Any]:
        """Of each text what transformers' pipeline has."""
        for text, found in zip(texts, self._label(texts), strict=True):
            yield self._classes(found) if self._task == CLASSES else self._sequence(text, found)

    def _classes(self, found: Labelled) -> Any:
        """All labels, or as many as were asked for; as transformers has it, the best one alone where nobody asked."""
        said = [{"label": label, "score": score, **_parts(found)} for label, score in found.ranked()]
        return said[0] if self._has_best_alone else said[: self._asked.top_k]

    def _sequence(self, text: str, found: Labelled) -> dict[str, Any]:
        labels, scores = zip(*found.ranked(), strict=True)
        return {"sequence": text, "labels": list(labels), "scores": list(scores), **_parts(found)}


def _parts(found: Labelled) -> dict[str, int]:
    """Said of a text that was read in parts."""
    return {"num_parts": found.num_parts} if found.num_parts > 1 else {}


def _label_of(model: Model, task: str, asked: TaskOptions) -> Label:
    classifier = model.profile.classifier
    _check_kind(model, asked)
    if classifier is None:
        _check_labels_for_writer(model, task, asked)
        return GoingOn(model, asked).label
    if task == CLASSES:
        _refuse_labels(model, asked)
        return Classifying(model, asked).label
    _require_labels(asked)
    return Entailing(model, classifier, asked).label


def _check_kind(model: Model, asked: TaskOptions) -> None:
    is_writer = model.profile.classifier is None
    kind = "writes text" if is_writer else "is a classifier"
    for option in FOR_CLASSIFIERS if is_writer else FOR_WRITERS:
        if option in asked.given:
            raise BadRequest(
                f"{option} is nothing for {model.profile.name}, which {kind}. Leave it out.", option=option
            )


def _check_labels_for_writer(model: Model, task: str, asked: TaskOptions) -> None:
    if task == CLASSES and not asked.candidate_labels:
        raise UnsupportedModel(
            f"{model.profile.name} writes text, and has no labels of its own. Give candidate_labels, or name a "
            "classifier (...ForSequenceClassification)."
        )
    _require_labels(asked)


def _require_labels(asked: TaskOptions) -> None:
    if not asked.candidate_labels:
        raise BadRequest("zero-shot-classification needs candidate_labels.", option="candidate_labels")


def _refuse_labels(model: Model, asked: TaskOptions) -> None:
    if asked.candidate_labels or asked.hypothesis_template:
        raise BadRequest(
            f"candidate_labels and hypothesis_template are nothing for {model.profile.name}, which has labels of its "
            "own. zero-shot-classification takes them.",
            option="candidate_labels",
        )
