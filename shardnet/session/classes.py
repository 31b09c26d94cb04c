"""What a classifier says of a text, as transformers' `text-classification` pipeline says it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.plan import Classifier

SOFTMAX, SIGMOID, NONE = "softmax", "sigmoid", "none"
FUNCTIONS = (SOFTMAX, SIGMOID, NONE)
"""What may be done to logits. By itself, a model's are taken as its task wants it: see `function_for`."""


@dataclass(frozen=True)
class Classes:
    """What `Model.classify` finds of one text."""

    labels: tuple[str, ...]
    """All classes of the model, in its order."""
    scores: tuple[float, ...]
    """Of each, in the same order."""
    num_tokens: int
    """Of the text, as the tokenizer gave them."""

    @property
    def label(self) -> str:
        """The class with the greatest score; of equal ones the first."""
        return self.labels[self.scores.index(max(self.scores))]

    @property
    def score(self) -> float:
        """Of that class."""
        return max(self.scores)

    def ranked(self) -> list[tuple[str, float]]:
        """All classes with their scores, the greatest first."""
        return sorted(zip(self.labels, self.scores, strict=True), key=lambda pair: -pair[1])


def function_for(classifier: Classifier, asked: str | None) -> str:
    """What makes scores of its logits: what was asked for, else what its configuration wants.

    Raises:
        BadRequest: there is no such function.
    """
    if asked is not None:
        if asked not in FUNCTIONS:
            raise BadRequest(f"function_to_apply must be one of {', '.join(FUNCTIONS)}, but is {quoted(asked)}.")
        return asked
    if classifier.problem_type == "regression":
        return NONE
    is_lone = classifier.problem_type == "multi_label_classification" or len(classifier.labels) == 1
    return SIGMOID if is_lone else SOFTMAX


def pooled(ids: Sequence[int], pad_id: int | None) -> list[int]:
    """A text up to the token whose row is its logits: the last one that does not fill it up, as transformers pools.

    What is behind that token changes nothing of its row.
    """
    end = len(ids)
    while end > 1 and ids[end - 1] == pad_id:
        end -= 1
    return list(ids[:end])


def classes_of(classifier: Classifier, logits: Sequence[float], function: str, num_tokens: int, model: str) -> Classes:
    """
    Args:
        logits: of each label, in float32.
        function: one of `FUNCTIONS`.
        model: what messages call it.

    Raises:
        BadRequest: they are no finite numbers.
    """
    if not all(map(math.isfinite, logits)):
        raise BadRequest(
            f"the scores of {model} for this text are no finite numbers. Load it in another dtype: float32 or bfloat16."
        )
    if function == SOFTMAX:
        most = max(logits)
        shares = [math.exp(each - most) for each in logits]
        scores = [share / math.fsum(shares) for share in shares]
    else:
        scores = [_sigmoid(each) for each in logits] if function == SIGMOID else list(logits)
    return Classes(classifier.labels, tuple(scores), num_tokens)


def _sigmoid(number: float) -> float:
    if number < 0:
        return math.exp(number) / (1 + math.exp(number))
    return 1 / (1 + math.exp(-number))
