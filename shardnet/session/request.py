"""What a caller asks of a model, as its devices are told: whether there is room for it, and how tokens are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import randbits, token_bytes

from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.foreign.quoting import counted, quoted
from shardnet.grammars.matching import check_grammar
from shardnet.models.heads import writes_none
from shardnet.plan import Classifier, ModelProfile
from shardnet.session.options import GenerationOptions
from shardnet.speculation.guesser import DRAFT
from shardnet.speculation.tags import KEY_BYTES
from shardnet.transport.listener_messages import KEY_BITS, Listener
from shardnet.transport.offer_messages import offer_key_of
from shardnet.transport.rows_messages import RowsAsked
from shardnet.transport.session_messages import SamplingOptions, SessionSpec

ALL, LAST = POSITIONS = ("all", "last")
"""Of which tokens of a text rows are read."""


def sampling_of(options: GenerationOptions) -> SamplingOptions:
    """The part of the options that goes to the stage that samples."""
    sampling = SamplingOptions(**{name: options[name] for name in SamplingOptions._fields})
    return sampling if options.draft is None else sampling._replace(speculate=DRAFT)


def check_sampling(sampling: SamplingOptions, profile: ModelProfile, eos_ids: Sequence[int]) -> None:
    """See that a model has the tokens that options name by their ids, and can follow the grammar that they give.

    Raises:
        BadRequest: it has not, or cannot.
    """
    named = {"logit_bias": [each for each, _ in sampling.logit_bias], "stop_token_ids": sampling.stop_token_ids}
    for option, ids in named.items():
        if wrong := [token_id for token_id in ids if token_id >= profile.vocabulary]:
            last = profile.vocabulary - 1
            raise BadRequest(
                f"{option} names the token {wrong[0]}, but the ids of this model end at {last}.", option=option
            )
    if sampling.grammar and not (eos_ids or sampling.stop_token_ids):
        raise BadRequest(
            f"stop_token_ids must name a token that ends the answer: {profile.name} names none, and an answer that "
            "follows a grammar needs one.",
            option="stop_token_ids",
        )
    check_grammar(sampling.grammar)


def session_spec(
    number: int,
    num_prompt: int,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    sampling: SamplingOptions,
    listener: Listener | None = None,
) -> SessionSpec:
    """A session that is asked for: room for its prompt and all of its answer, of which nothing is known."""
    key = randbits(KEY_BITS) if listener is None else offer_key_of(listener.key)
    return SessionSpec(
        session=number,
        capacity_tokens=num_prompt + max_new_tokens,
        prompt_tokens=num_prompt,
        sample_from=num_prompt,
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        sampling=sampling,
        listener=listener,
        guess_key=b"" if sampling.speculate == "off" else token_bytes(KEY_BYTES),
        offer_key=key if sampling.speculate == DRAFT else 0,
    )


def scored_spec(number: int, ids: Sequence[int], num_alternatives: int) -> SessionSpec:
    """A session that scores a text: all ids but the first are its answer, which is known. The last is not computed."""
    num_scored = len(ids) - 1
    spec = session_spec(number, num_scored, num_scored, (), SamplingOptions(logprobs=num_alternatives))
    return spec._replace(capacity_tokens=num_scored, targets=tuple(ids[1:]))


def read_spec(number: int, ids: Sequence[int], rows: RowsAsked) -> SessionSpec:
    """A session that reads a text, of which rows are asked for. All of it is computed, and nothing sampled. Where these
    are logits of later tokens alone, others may begin with those before: so a prompt is read with its continuations.
    Likewise where it is said that it stays.
    """
    spec = session_spec(number, len(ids), 0, (), SamplingOptions())
    return spec._replace(rows=rows, stays=rows.stays or (rows.are_logits and rows.first > 0))


def check_to_read(num_tokens: int, context_tokens: int) -> None:
    """See that a text can be read as one.

    Raises:
        BadRequest: it is longer than the context.
    """
    if num_tokens > context_tokens:
        raise BadRequest(
            f"the text has {counted(num_tokens, 'tokens')}, but the context holds {context_tokens}. Shorten it, or "
            "give it in parts."
        )


def rows_at(positions: str, num_tokens: int, *, are_logits: bool) -> RowsAsked:
    """Those of all tokens of a text, or of its last one.

    Args:
        positions: one of `POSITIONS`.

    Raises:
        BadRequest: it is none of these.
    """
    if positions not in POSITIONS:
        raise BadRequest(f"positions must be one of {', '.join(POSITIONS)}, but is {quoted(positions)}.")
    return RowsAsked(num_tokens - 1 if positions == LAST else 0, are_logits)


def check_text_length(num_tokens: int, context_tokens: int) -> None:
    """See that a text can be scored as one.

    Raises:
        BadRequest: it is longer than the context, or there is nothing to be scored.
    """
    if num_tokens > context_tokens:
        raise BadRequest(
            f"the text has {counted(num_tokens, 'tokens')}, but the context holds {context_tokens}. Score it in parts."
        )
    if num_tokens < 2:
        raise BadRequest("a text of one token has nothing before it that could make it likely. Give two at least.")


def require_writer(profile: ModelProfile) -> None:
    """See that a model writes text, and can say how likely one is.

    Raises:
        UnsupportedModel: it is a classifier.
    """
    if profile.classifier is not None:
        raise writes_none(profile.name)


def require_classifier(profile: ModelProfile) -> Classifier:
    """What a model tells apart.

    Raises:
        UnsupportedModel: it is no classifier.
    """
    if profile.classifier is None:
        raise UnsupportedModel(
            f"{profile.name} writes text, and tells no classes apart. Name a classifier (...ForSequenceClassification)."
        )
    return profile.classifier


def check_length(num_prompt: int, num_new: int, context_tokens: int, option: str = "max_new_tokens") -> None:
    """See that there is room for as many new tokens as were asked for.

    Args:
        option: what the caller calls `num_new`.

    Raises:
        BadRequest: there is not.
    """
    if num_prompt + num_new > context_tokens:
        raise BadRequest(
            f"the prompt has {counted(num_prompt, 'tokens')} and the answer may have {quoted(num_new)}, "
            f"but the context holds {context_tokens}. Shorten the prompt or lower {option}."
        )
