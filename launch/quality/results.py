"""What was measured of each scheme of weights, and how they compare. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from shardnet.plan import DTYPES
from shardnet.quantised.kv_names import AUTO
from shardnet.session.scores import exp


@dataclass(frozen=True)
class Measured:
    """A model with weights of one scheme, and a text."""

    scheme: str
    log_likelihoods: tuple[float, ...]
    """Of each token that was scored."""
    likeliest: tuple[int, ...]
    """The id that would have been the likeliest in its place."""
    weight_bytes: int
    """On all devices."""
    decode_tokens_per_s: float | None
    """Of one answer; None where it was too short to tell."""
    score_tokens_per_s: float
    """Of reading the text."""
    kv_dtype: str = AUTO
    """What keys and values were kept in."""


@dataclass(frozen=True)
class Row:
    """One scheme beside the others."""

    weights: str
    kv_dtype: str
    perplexity: float
    change: float | None
    """Of the perplexity, against the reference: 0.01 is one percent more. None of the reference itself."""
    change_error: float | None
    """Standard error of that: what another text of this kind may make of it."""
    same_likeliest: float | None
    """For so large a part of the tokens the likeliest one is that of the reference."""
    weight_bytes: int
    decode_tokens_per_s: float | None
    score_tokens_per_s: float

    @property
    def label(self) -> str:
        """What it is called in a picture."""
        return self.weights if self.kv_dtype == AUTO else f"{self.weights}, keys and values {self.kv_dtype}"


def reference_of(measured: Sequence[Measured]) -> Measured:
    """That with the most bits of those that are not quantised; where all are, the first."""
    plain = [each for dtype in DTYPES for each in measured if each.scheme == dtype and each.kv_dtype == AUTO]
    return plain[0] if plain else measured[0]


def compare(measured: Sequence[Measured]) -> list[Row]:
    """A row for each, in their order."""
    reference = reference_of(measured)
    return [_row(each, None if each is reference else reference) for each in measured]


def _row(one: Measured, reference: Measured | None) -> Row:
    change = error = same = None
    if reference is not None:
        more = [there - here for here, there in zip(one.log_likelihoods, reference.log_likelihoods, strict=True)]
        factor = exp(fmean(more))
        change = factor - 1
        error = factor * stdev(more) / math.sqrt(len(more)) if len(more) > 1 else None
        both = list(zip(one.likeliest, reference.likeliest, strict=True))
        same = sum(here == there for here, there in both) / len(both)
    return Row(
        one.scheme,
        one.kv_dtype,
        exp(-fmean(one.log_likelihoods)),
        change,
        error,
        same,
        one.weight_bytes,
        one.decode_tokens_per_s,
        one.score_tokens_per_s,
    )
