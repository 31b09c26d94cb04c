"""How likely given continuations of a prompt are: what a multiple choice is decided by.

Texts that differ in their last token alone are read once, and what all begin with is computed once: the first text is
read by itself, and the others begin with what stages have of it.

Shapes: T tokens of one continuation, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from shardnet.checks import iterated
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.models.scoring import Likelihoods
from shardnet.session.reading import Reading, read_all
from shardnet.session.request import check_text_length
from shardnet.session.scores import Told
from shardnet.transport.rows_messages import RowsAsked

Encode = Callable[[Any], list[int]]
Text = str | Sequence[int]
"""Or its token ids."""
Asked = tuple[Sequence[int], RowsAsked]


@dataclass(frozen=True)
class Continuation:
    """One text behind a prompt, as `Model.score_continuations` finds it."""

    token_ids: tuple[int, ...]
    """Of the continuation alone."""
    log_likelihoods: tuple[float, ...]
    """Of each of these, given the prompt and those before it: natural logarithms."""
    likeliest: tuple[int, ...]
    """The ids that would have been the likeliest in their places."""

    @property
    def log_likelihood(self) -> float:
        """Of the whole continuation, given the prompt."""
        return math.fsum(self.log_likelihoods)

    @property
    def mean_log_likelihood(self) -> float:
        """Of one of its tokens, on average: so that long ones are not behind for their length."""
        return self.log_likelihood / len(self.log_likelihoods)

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest one."""
        return self.token_ids == self.likeliest


@dataclass(frozen=True)
class Continued:
    """A prompt and what is behind it, as ids."""

    prompt: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """All but the last id, which nothing follows."""
        return (*self.prompt, *self.behind[:-1])


def several(continuations: Any) -> list[Any]:
    """Those of one prompt.

    Raises:
        BadRequest: it is one text.
    """
    if isinstance(continuations, (str, bytes)):
        raise BadRequest(f"continuations come in a list, but this is {quoted(continuations)}. Put it into a list.")
    return list(iterated("continuations", continuations, "a list"))


def continued(prompt: Text, continuation: Text, encode: Encode, context_tokens: int) -> Continued:
    """Both as ids, cut where the prompt ends.

    Texts are encoded as lm-eval-harness does it: prompt and continuation as one, and cut behind as many ids as the
    prompt has by itself. White space at the end of the prompt belongs to the continuation. Ids are taken as they are.

    Raises:
        BadRequest: they are not both text or both ids, one is empty, or they are too long.
    """
    if isinstance(prompt, str) and isinstance(continuation, str):
        ids = encode(prompt.rstrip())
        behind = encode(prompt + continuation)[len(ids) :]
    elif isinstance(prompt, str) or isinstance(continuation, str):
        raise BadRequest("a prompt and its continuation must both be text, or both token ids.")
    else:
        ids, behind = encode(prompt), encode(continuation)
    if not behind:
        raise BadRequest(f"the continuation {quoted(continuation)} is empty: it adds no token to the prompt.")
    check_text_length(len(ids) + len(behind), context_tokens)
    return Continued(tuple(ids), tuple(behind))


def score_all(
    texts: Sequence[Continued],
    read: Callable[[Sequence[int], RowsAsked], Reading],
    on_progress: Told = None,
) -> list[Continuation]:
    """How likely each one is, in their order.

    Args:
        read: opens a text whose rows are read.
        on_progress: called with how many of how many are scored.

    Raises:
        BadRequest: the model's scores are no finite numbers. And what `read_all` raises.
    """
    alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for index, text in enumerate(texts):
        alike.setdefault((text.read, len(text.prompt)), []).append(index)
    found: dict[int, Continuation] = {}
    asked: list[Asked] = [(ids, RowsAsked(num_prompt - 1, are_logits=True)) for ids, num_prompt in alike]
    all_rows = chain.from_iterable(read_all(read, together) for together in _in_turn(texts, asked))
    for indices, rows_TV in zip(alike.values(), all_rows, strict=True):
        found.update((index, _scored(texts[index], rows_TV)) for index in indices)
        if on_progress is not None:
            on_progress(len(found), len(texts))
    return [found[index] for index in range(len(texts))]


def _in_turn(texts: Sequence[Continued], asked: list[Asked]) -> Iterator[list[Asked]]:
    """The first one of a prompt alone, lest all compute the prompt; where each has its own, all together."""
    num_prompts = len({text.prompt for text in texts})
    num_alone = 1 if num_prompts < len(asked) else 0
    yield asked[:num_alone]
    yield asked[num_alone:]


def _scored(text: Continued, logits_TV: Tensor) -> Continuation:
    targets = torch.tensor(text.behind)
    found = Likelihoods.of(logits_TV, targets, 0)
    if not bool(found.of_tokens.isfinite().all()):
        raise BadRequest("the model's scores of these texts are no finite numbers. Load it in another dtype: float32.")
    return Continuation(text.behind, tuple(found.of_tokens.tolist()), tuple(found.likeliest.tolist()))
