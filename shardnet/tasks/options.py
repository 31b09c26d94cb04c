"""What tasks can be asked, each declared once: for Python, and for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from shardnet.checks import iterated
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.options import Made, Meaning, Number, OneOf, Options, Whole
from shardnet.session.classes import FUNCTIONS

NO_POOLING, LAST, MEAN = "none", "last", "mean"
TEXT = "{text}"
HYPOTHESIS = "This example is {}."
"""As transformers has it."""


def labels_of(labels: Any) -> tuple[str, ...]:
    """Labels in a list, or in one text with commas between them.

    Raises:
        BadRequest: there is none, or one is empty or there twice.
    """
    many = labels.split(",") if isinstance(labels, str) else iterated("candidate_labels", labels, "text or a list")
    found = [each.strip() if isinstance(each, str) else each for each in many]
    if not found or not all(isinstance(each, str) and each for each in found):
        raise BadRequest(f"candidate_labels must be one or more texts, but is {quoted(labels)}.")
    if len(set(found)) < len(found):
        raise BadRequest("candidate_labels names something twice; name each once.")
    return tuple(found)


def template_of(template: Any) -> str:
    """
    Raises:
        BadRequest: it has no place for a label.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise BadRequest(f"hypothesis_template must have {{}} once, for the label, but is {quoted(template)}.")
    return template


def prompt_of(prompt: Any) -> str:
    """
    Raises:
        BadRequest: it has no place for the text.
    """
    if not isinstance(prompt, str) or prompt.count(TEXT) != 1:
        raise BadRequest(f"prompt must have {TEXT} once, for the text, but is {quoted(prompt)}.")
    return prompt


@dataclass(frozen=True, kw_only=True)
class TaskOptions(Options):
    """What tasks take beside texts; which task takes what is in `names.ARGUMENTS`. None: as it is by itself."""

    batch_size: Annotated[
        int | None, Whole(1), Meaning("Texts that are handed to the ring together. By itself 16.")
    ] = None
    max_new_tokens: Annotated[
        int | None, Whole(1), Meaning("Tokens of an answer at the most. By itself 256.", short="-n")
    ] = None
    do_sample: Annotated[bool | None, Meaning("Draw tokens; without, always the likeliest one.")] = None
    temperature: Annotated[float | None, Number("above 0", 0, above=True), Meaning("With --do-sample.")] = None
    top_k: Annotated[
        int | None,
        Whole(1),
        Meaning("Of classes: so many of the best. With --do-sample: draw from so many tokens."),
    ] = None
    top_p: Annotated[float | None, Number("above 0 and at most 1", 0, 1, above=True), Meaning("With --do-sample.")] = (
        None
    )
    min_p: Annotated[float | None, Number("between 0 and 1", 0, 1), Meaning("With --do-sample.")] = None
    repetition_penalty: Annotated[
        float | None, Number("above 0", 0, above=True), Meaning("Above 1, tokens that are there become less likely.")
    ] = None
    seed: Annotated[int | None, Whole(0), Meaning("With --do-sample: the same seed, the same text.")] = None
    stop: Annotated[Sequence[str] | None, Meaning("End before this text. Can be given several times.")] = None
    prompt: Annotated[str | None, Made(prompt_of), Meaning("What the model is asked; {text} stands for the text.")] = (
        None
    )
    src_lang: Annotated[str | None, Meaning("The language of the texts, in words: German.")] = None
    tgt_lang: Annotated[str | None, Meaning("The language to translate to, in words: French.")] = None
    return_full_text: Annotated[
        bool | None, Meaning("The prompt before the answer, too. By itself so.", flag="--full-text/--no-full-text")
    ] = None
    num_return_sequences: Annotated[int | None, Whole(1), Meaning("Answers to each text, with --do-sample.")] = None
    candidate_labels: Annotated[
        str | Sequence[str] | None, Made(labels_of), Meaning("The labels to choose from, with commas between them.")
    ] = None
    hypothesis_template: Annotated[
        str | None,
        Made(template_of),
        Meaning(f"What is said of a text; {{}} stands for the label. By itself {HYPOTHESIS}"),
    ] = None
    multi_label: Annotated[bool | None, Meaning("Each label by itself may be true. Needs an NLI classifier.")] = None
    length_normalized: Annotated[
        bool | None, Meaning("Of a model that writes: labels by how likely one of their tokens is on average.")
    ] = None
    function_to_apply: Annotated[
        str | None,
        OneOf(FUNCTIONS),
        Meaning("What makes scores of a classifier's logits. By itself as it is configured."),
    ] = None
    pooling: Annotated[
        str | None,
        OneOf((NO_POOLING, LAST, MEAN)),
        Meaning("One row for a text, of its last token or the mean; none: a row for each token."),
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are."""
        return {name: self[name] for name in self.keys() if self[name] is not None}
