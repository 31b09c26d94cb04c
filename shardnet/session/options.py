"""How an answer is made: what `Model.stream` and its kin may be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any

from shardnet.checks import iterated, whole_number
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.grammars import texts
from shardnet.options import Made, Meaning, Number, OneOf, Options, Whole
from shardnet.quantised.schemes import AUTO, SCHEMES
from shardnet.session.prompts import check_text
from shardnet.speculation.guesser import WAYS

_SAMPLING = "How tokens are chosen"
_DRAFT = "A draft"
_FORM = "What an answer looks like"
_PENALTY = Number("between -2 and 2", -2, 2)
_BIAS = Number("between -100 and 100", -100, 100)
_BIASES = "a mapping of token ids to numbers, or pairs of these"
MOST_LOGPROBS = 20
"""As in the API of OpenAI."""
MOST_ID = 2**31 - 1
"""No vocabulary has a greater one."""


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


def biases_of(biases: Any) -> tuple[tuple[int, float], ...]:
    """What is added to the scores of which ids, in their order: of a mapping, as JSON has it, or of pairs.

    Raises:
        BadRequest: it is none of these, or a value is impossible.
    """
    pairs = biases.items() if isinstance(biases, Mapping) else iterated("logit_bias", biases, _BIASES)
    found: dict[int, float] = {}
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise BadRequest(f"logit_bias must be {_BIASES}, but one is {quoted(pair)}.")
        token_id = whole_number("a token id of logit_bias", _plain_id(pair[0]), least=0, most=MOST_ID)
        if token_id in found:
            raise BadRequest(f"logit_bias names the token {token_id} twice. Name it once.")
        found[token_id] = _BIAS.plain(f"the logit_bias of the token {token_id}", pair[1])
    return tuple(sorted(found.items()))


def _plain_id(token_id: Any) -> Any:
    """Keys in JSON are texts."""
    is_number = isinstance(token_id, str) and token_id.isascii() and token_id.isdecimal()
    return int(token_id) if is_number and len(token_id) < 20 else token_id


def stop_ids_of(ids: Any) -> tuple[int, ...]:
    """Ids that end the answer; a single one may come without a list.

    Raises:
        BadRequest: one is none.
    """
    is_one = isinstance(ids, Integral)
    found = [ids] if is_one else iterated("stop_token_ids", ids, "a token id or a list of them")
    plain = [whole_number("a token id of stop_token_ids", each, least=0, most=MOST_ID) for each in found]
    return tuple(dict.fromkeys(plain))


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
    presence_penalty: Annotated[
        float,
        _PENALTY,
        Meaning(
            "Taken from the score of each token that the answer has already.",
            about="taken from the score of each token that the answer has already, before the temperature; -2 to 2, as "
            "in the API of OpenAI.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        _PENALTY,
        Meaning(
            "The same, for each time that the answer has it.",
            about="the same, for each time that the answer has it.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    logit_bias: Annotated[
        Mapping[int, float] | Sequence[tuple[int, float]],
        Made(biases_of),
        Meaning(
            "Add to the score of a token, by its id: 100 all but forces it, -100 forbids it. Can be given several "
            "times.",
            about="by token ids, what is added to their scores before anything else is done to these, from -100, which "
            "forbids a token, to 100.",
            panel=_SAMPLING,
            metavar="ID=BIAS",
        ),
    ] = ()
    logprobs: Annotated[
        int,
        Whole(-1, MOST_LOGPROBS, asked=f"-1 (none) to {MOST_LOGPROBS}"),
        Meaning(
            "With --json: how likely each token was to the model, and so many of the likeliest in its place. -1: none.",
            about="how likely each token was to the model, before options change that, and so many of the likeliest in "
            "its place: natural logarithms, in `Generation.logprobs` and `Stream.pieces()`. -1: none.",
            panel=_SAMPLING,
        ),
    ] = -1
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
    stop_token_ids: Annotated[
        int | Sequence[int],
        Made(stop_ids_of),
        Meaning(
            "End with this token, by its id. Can be given several times.",
            about="ids that end the answer, beside the model's own; its text does not include them.",
            flag="--stop-token-id",
            metavar="ID",
        ),
    ] = ()
    min_tokens: Annotated[
        int,
        Whole(0, MOST_ID, asked="0 or more"),
        Meaning(
            "No token that ends the answer comes before so many.",
            about="no token that ends the answer comes before it has so many. A stop string may end it.",
        ),
    ] = 0
    ignore_eos: Annotated[
        bool,
        Made(bool),
        Meaning(
            "Go on behind the model's own end, up to --max-new-tokens.",
            about="go on where the model would end, up to `max_new_tokens`.",
        ),
    ] = False

    json_schema: Annotated[
        str | Mapping[str, Any] | None,
        Made(texts.schema_of),
        Meaning(
            "The answer is JSON that this schema allows.",
            about="the answer is JSON that this JSON schema (or its text) allows. This and the next four need the "
            "extra `grammar` on the device that holds the head; see docs/constrained.md.",
            panel=_FORM,
            metavar="FILE",
        ),
    ] = None
    json_object: Annotated[
        bool,
        Made(bool),
        Meaning("The answer is a JSON object.", panel=_FORM),
    ] = False
    regex: Annotated[
        str | None,
        Made(texts.expression_of),
        Meaning("The answer is what this regular expression matches as a whole.", panel=_FORM),
    ] = None
    lark: Annotated[
        str | None,
        Made(texts.lark_of),
        Meaning(
            "The answer follows this grammar, as Lark writes them.",
            about="the answer follows this grammar, as Lark writes them (its text).",
            panel=_FORM,
            metavar="FILE",
        ),
    ] = None
    choice: Annotated[
        str | Sequence[str],
        Made(texts.choices_of),
        Meaning(
            "The answer is one of these texts. Can be given several times.",
            about="the answer is one of these texts.",
            panel=_FORM,
            metavar="TEXT",
        ),
    ] = ()
    grammar: Annotated[
        str,
        Made(texts.bounded),
        Meaning(about="what the answer follows as llguidance writes it. The five above fill it."),
    ] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle_grammar()
        if self.min_tokens > self.max_new_tokens:
            raise BadRequest(
                f"min_tokens must be at most the {self.max_new_tokens} tokens that the answer may have, but is "
                f"{self.min_tokens}.",
                option="min_tokens",
            )

    def _settle_grammar(self) -> None:
        """
        Raises:
            BadRequest: there are several, or something contradicts it.
        """
        asked = texts.grammar_of(**{name: self[name] for name in texts.KINDS})
        if asked and self.grammar not in ("", asked):
            raise BadRequest("grammar is given beside another one: an answer follows one.", option="grammar")
        object.__setattr__(self, "grammar", asked or self.grammar)
        contradicts = {"min_tokens": bool(self.min_tokens), "ignore_eos": self.ignore_eos}
        option = next((name for name, is_given in contradicts.items() if is_given), None)
        if self.grammar and option is not None:
            raise BadRequest(
                f"{option} cannot be kept where the grammar of an answer says when it ends.", option=option
            )
