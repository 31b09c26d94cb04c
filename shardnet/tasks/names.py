"""Which tasks there are, and which arguments each of them takes. Pure."""

from __future__ import annotations

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

GENERATION, SUMMARIES, TRANSLATION = "text-generation", "summarization", "translation"
CLASSES, ZERO_SHOT, FEATURES = "text-classification", "zero-shot-classification", "feature-extraction"
TASKS = (SUMMARIES, CLASSES, TRANSLATION, FEATURES, ZERO_SHOT, GENERATION)
WRITING = (GENERATION, SUMMARIES, TRANSLATION)
"""Whose result is text."""
ALIASES = {"sentiment-analysis": CLASSES}
"""As transformers has them."""

_CHOOSING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
_WRITING = ("batch_size", "max_new_tokens", *_CHOOSING)
_LABELS = ("batch_size", "candidate_labels", "hypothesis_template", "length_normalized")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    SUMMARIES: (*_WRITING, "prompt"),
    TRANSLATION: (*_WRITING, "prompt", "src_lang", "tgt_lang"),
    GENERATION: (*_WRITING, "stop", "return_full_text", "num_return_sequences"),
    CLASSES: (*_LABELS, "top_k", "function_to_apply"),
    ZERO_SHOT: (*_LABELS, "multi_label"),
    FEATURES: ("batch_size", "pooling"),
}
"""Of each task; fields of `TaskOptions`."""


def task_named(name: str) -> str:
    """The task of that name.

    Raises:
        BadRequest: there is none.
    """
    task = ALIASES.get(name, name)
    if task not in TASKS:
        raise BadRequest(f"the task must be one of {', '.join(TASKS)}, but is {quoted(name)}.")
    return task


def check_arguments(task: str, names: list[str]) -> None:
    """
    Raises:
        BadRequest: the task does not take one of these.
    """
    for name in names:
        if name not in ARGUMENTS[task]:
            raise BadRequest(f"{task} takes no {name}. It takes {', '.join(ARGUMENTS[task])}.", option=name)
