"""How an answer is made: what `Model.stream` and its kin may be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.options import Made, Meaning, Number, OneOf, Options, Whole
from shardnet.quantised.schemes import AUTO, SCHEMES
from shardnet.session.prompts import check_text, iterated
from shardnet.speculation.guesser import WAYS

_SAMPLING = "How tokens are chosen"
_DRAFT = "A draft"


def stops_of(stop: Any) -> tuple[str, ...]:
    """The stop strings; a single one may come without a list.

    Raises:
        BadRequest: one is empty or no text.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(iterated("stop", stop, "text or a list of texts"))
    for each in stops:
        if not isinstance(each, str):
            raise BadRequest(f"a stop string must be text, but is {quoted(each)}.")
        if not each:
            raise BadRequest("a stop string must not be empty.")
        check_text("a stop string", each)
    return stops


def draft_of(model: Any) -> str | None:
    """
    Raises:
        BadRequest: it names no model.
    """
    if model is not None and (not isinstance(model, (str, Path)) or not str(model).strip()):
        raise BadRequest(f"a draft is a path or a hub id, but this is {quoted(model)}.")
    return None if model is None else str(model)


@dataclass(frozen=True, kw_only=True)
class GenerationOptions(Options):
    """What `Model.stream` and its kin may be asked for: `model.stream(prompt, **options)`.

    Impossible values raise `BadRequest`. Those of sampling mean what they mean in `transformers.GenerationConfig`.
    """

    chat: Annotated[
        bool,
        Made(bool),
        Meaning(
            "Ask as a user: apply the model's chat template.",
            about="put a text prompt into the model's chat template, as the user's message.",
        ),
    ] = False
    max_new_tokens: Annotated[
        int,
        Whole(1),
        Meaning("Tokens to generate at the most.", short="-n"),
    ] = 128
    temperature: Annotated[
        float,
        Number("0 (greedy) or more", 0),
        Meaning(
            "0: always the likeliest token.",
            about="0 is greedy; the others mean what they mean in `transformers.GenerationConfig`.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    top_k: Annotated[
        int,
        Whole(0, asked="0 (all tokens) or more, and below 2**63"),
        Meaning("0: all tokens.", panel=_SAMPLING),
    ] = 0
    top_p: Annotated[
        float,
        Number("above 0 and at most 1", 0, 1, above=True),
        Meaning("Likeliest tokens up to this probability.", panel=_SAMPLING),
    ] = 1.0
    min_p: Annotated[
        float,
        Number("between 0 and 1", 0, 1),
        Meaning(
            "Tokens at least so likely, the likeliest being 1.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Number("above 0", 0, above=True),
        Meaning("1: none.", about="above 1, tokens that are there already become less likely.", panel=_SAMPLING),
    ] = 1.0
    seed: Annotated[
        int,
        Whole(0, asked="between 0 and 2**63 - 1"),
        Meaning(
            "The same seed, the same random numbers; with --dtype float32, the same text.",
            about="in float32 the same seed gives the same text, whatever the split and whoever shares the steps. In "
            "bfloat16 and float16 the random numbers are the same and the scores agree to rounding.",
            panel=_SAMPLING,
        ),
    ] = 0
    speculate: Annotated[
        str,
        OneOf(WAYS),
        Meaning(
            "Guess tokens, which the ring checks together. lookup: what came the last time behind the last tokens; "
            "auto: the same where that is faster; draft: what --draft says.",
            about='"off", "auto" or "lookup": what came the last time behind the last tokens goes round as a guess, '
            "and the ring checks several tokens in one lap. Pays where the answer repeats much of the prompt; with "
            '"auto" nothing is guessed where it does not pay. In float32 the text is the same. "draft": what `draft` '
            "says, which implies it.",
        ),
    ] = "off"
    draft: Annotated[
        str | None,
        Made(draft_of),
        Meaning(
            "A small model with the same tokenizer, which guesses tokens here while the ring is at work.",
            about="a small model with the same tokenizer (a folder, a `.gguf` file, or a hub id), which is loaded in "
            "this process, beside the answer, and guesses tokens while the ring is at work. Used by all answers that "
            "name it; one that fails, or for which there is no room, is done without.",
            panel=_DRAFT,
            metavar="MODEL",
        ),
    ] = None
    draft_weights: Annotated[
        str,
        OneOf(SCHEMES),
        Meaning(
            "How its weights are held: as --weights.", about="how its weights are held: as `weights`.", panel=_DRAFT
        ),
    ] = AUTO
    draft_threads: Annotated[
        int,
        Whole(1),
        Meaning("Its compute threads.", panel=_DRAFT),
    ] = 1
    stop: Annotated[
        str | Sequence[str],
        Made(stops_of),
        Meaning(
            "End before this text. Can be given several times.",
            about="strings that end the answer; the answer does not include them.",
        ),
    ] = ()
