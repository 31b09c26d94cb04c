"""What a model's head is for, by its configuration: to write text, token by token, or to tell classes of texts apart.

A classifier is what transformers calls `...ForSequenceClassification`: in each family that has one, its head is a
matrix `score` [labels, H] without a bias, behind the norm that is before `lm_head` in a model that writes. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.quoting import quoted
from shardnet.plan import Classifier

CLASSIFIES = "ForSequenceClassification"
LM_HEAD, SCORE = "lm_head", "score"
"""The last module of a model that writes, and of one that classifies."""
_UNKNOWN = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice", "RewardModel")
"""Heads that are neither. Without their tensors, a checkpoint with tied weights would pass for a model that writes."""
SCORE_BYTES = 4
"""Of a label, in float32."""
USUAL_LABELS = 2
"""Where a `config.json` does not say: transformers leaves out what is usual."""
_MOST_LABEL = 200
"""Characters: labels are shown, and travel."""


def is_classifier(config: Any) -> bool:
    """Whether the model of this configuration, a `transformers` one or a plain one, tells classes of texts apart."""
    return _asks_for(getattr(config, "architectures", None), (CLASSIFIES,)) is not None


def check_head(config: Mapping[str, Any], shown: str) -> None:
    """See that a `config.json` asks for a head that is known here.

    Args:
        shown: what messages call it.

    Raises:
        UnsupportedModel: it does not.
    """
    other = _asks_for(config.get("architectures"), _UNKNOWN)
    if other is not None:
        raise UnsupportedModel(
            f"{shown} names the architecture {quoted(other)}, and models can be cut that write text (...ForCausalLM) "
            f"or classify it (...{CLASSIFIES}). Use a checkpoint of one of these."
        )


def num_labels_of(config: Mapping[str, Any]) -> int:
    """How many classes the model of a checked `config.json` tells apart; 0 where it writes text."""
    if _asks_for(config.get("architectures"), (CLASSIFIES,)) is None:
        return 0
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else config.get("num_labels") or USUAL_LABELS


def writes_none(model: str) -> UnsupportedModel:
    """The error for who asks a classifier for text."""
    return UnsupportedModel(
        f"{model} is a classifier (...{CLASSIFIES}): it tells classes of texts apart, and writes none. "
        "Name a model that writes text (...ForCausalLM)."
    )


def classifier_of(config: Any) -> Classifier | None:
    """What a model tells apart; None where it writes text.

    Raises:
        DamagedCheckpoint: its labels are none.
    """
    if not is_classifier(config):
        return None
    said = config.id2label
    labels = {int(key): label for key, label in said.items()} if isinstance(said, Mapping) else {}
    if not labels or sorted(labels) != list(range(len(labels))):
        raise DamagedCheckpoint(
            f"The id2label of this {config.model_type} model should name the classes 0, 1, 2, ..., but is "
            f"{quoted(said)}. Correct config.json, or download it again."
        )
    for label in labels.values():
        if not isinstance(label, str) or len(label) > _MOST_LABEL:
            raise DamagedCheckpoint(
                f"A label of this {config.model_type} model should be a text of up to {_MOST_LABEL} characters, but is "
                f"{quoted(label)}. Correct id2label in config.json, or download it again."
            )
    ordered = tuple(labels[index] for index in range(len(labels)))
    return Classifier(ordered, getattr(config, "problem_type", None) or "", getattr(config, "pad_token_id", None))


def _asks_for(architectures: Any, endings: tuple[str, ...]) -> str | None:
    """The first architecture that a configuration names, if it has one of these endings: transformers writes one."""
    first = architectures[0] if isinstance(architectures, (list, tuple)) and architectures else None
    return first if isinstance(first, str) and first.endswith(endings) else None
