"""How likely a text is to a model, token by token. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shardnet.transport.session_messages import SampledToken

Told = Callable[[int, int], object] | None
"""Called with how many of how many are scored."""
MOST_EXPONENT = 700.0
"""Of e, in a float."""


@dataclass(frozen=True)
class Scores:
    """What `Model.score` finds: of each token behind the first, given all before it."""

    token_ids: list[int]
    """Of the whole text."""
    log_likelihoods: list[float]
    """Natural logarithms; the first one is that of the second token."""
    likeliest: list[int]
    """The id that would have been the likeliest in its place."""
    alternatives: Sequence[tuple[tuple[int, float], ...]] = ()
    """As many of the likeliest ids in its place as were asked for, with their logarithms, the likeliest first."""

    @property
    def log_likelihood(self) -> float:
        """Of the whole text, given its first token."""
        return math.fsum(self.log_likelihoods)

    @property
    def perplexity(self) -> float:
        """Among how many tokens, equally likely, each one was, on average."""
        return exp(-self.log_likelihood / len(self.log_likelihoods))

    @property
    def is_likeliest(self) -> list[bool]:
        """Whether each one was the likeliest itself."""
        return [token == best for token, best in zip(self.token_ids[1:], self.likeliest, strict=True)]


def exp(exponent: float) -> float:
    """e to that power; infinity where it is beyond what a float holds."""
    return math.exp(exponent) if exponent < MOST_EXPONENT else math.inf


def scores_of(ids: Sequence[int], session: Iterable[SampledToken], on_progress: Told = None) -> Scores:
    """Of a text, whose tokens a session tells."""
    tokens = []
    for token in session:
        tokens.append(token)
        if on_progress is not None:
            on_progress(len(tokens), len(ids) - 1)
    likelihoods = [token.log_likelihood for token in tokens if token.log_likelihood is not None]
    likeliest = [token.likeliest for token in tokens if token.likeliest is not None]
    return Scores(list(ids), likelihoods, likeliest, [token.alternatives for token in tokens])
