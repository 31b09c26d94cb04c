"""In which codec hidden states cross each link of a plan: a smaller one only where the time that it gains pays. Pure.

What counts is the prompt: of it a link carries `chunk_tokens` rows at a time, in decoding one. Chunks follow each other
through the ring, and the next one comes as soon as the slowest has done with the last: a stage that computes, or a link
that sends. So over one link a prompt of `PROMPT_CHUNKS` chunks takes as long as all stages compute on the first chunk
and the link takes for it, and then as long as the slower of the link and the slowest stage for each further one. Other
links are left out of it: each is looked at as if it were the only slow one.

The rule: of the codecs, those that lose least first, the next one is taken where a prompt takes less by `MIN_GAIN` at
least than with the last one that was taken. What encoding and decoding take is reckoned as the link's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from shardnet.codecs.names import INT8, row_bytes
from shardnet.plan import Link, StagePlan
from shardnet.planner.problem import Problem

PROMPT_CHUNKS = 4
MIN_GAIN = 0.1
"""Of the time of a prompt: what travels is rounded for it."""
S_PER_NUMBER = 1e-8
"""To encode and decode one number in a smaller codec: several times what was measured, as phones are slower."""


@dataclass(frozen=True)
class Offer:
    """A codec that may be used."""

    codec: str
    row_bytes: int
    row_s: float
    """To encode and decode a row; 0 for the model's own dtype."""


def offers_for(dtype: str, hidden_size: int) -> tuple[Offer, ...]:
    """Those of which a link takes one where nobody says which: what loses least first, and the model's own before all.

    Not fp8, which is next to no smaller than int8, nor float16, which ends at 65504.
    """
    own = Offer(dtype, row_bytes(dtype, hidden_size), 0.0)
    smaller = ("bfloat16", INT8) if dtype == "float32" else (INT8,)
    return own, *(Offer(codec, row_bytes(codec, hidden_size), hidden_size * S_PER_NUMBER) for codec in smaller)


def codec_for(link: Link, stage_chunk_s: Sequence[float], offers: Sequence[Offer], chunk_tokens: int) -> str:
    """The codec that a link takes.

    Args:
        stage_chunk_s: how long each stage computes on a chunk.
        offers: as `offers_for` gives them.
    """
    chosen, *others = offers
    for offer in others:
        now_s, then_s = (_prompt_s(link, stage_chunk_s, each, chunk_tokens) for each in (chosen, offer))
        if then_s <= now_s * (1 - MIN_GAIN):
            chosen = offer
    return chosen.codec


def codecs_of(
    problem: Problem, stages: Sequence[StagePlan], offers: Sequence[Offer], chunk_tokens: int
) -> dict[int, str]:
    """What the links of a plan take, by the last unit before each; none where no times of prompts are known."""
    chunk_s = []
    for stage in stages:
        seconds = problem.devices[problem.index[stage.device]].prefill_unit_seconds
        if seconds is None:
            return {}
        chunk_s.append(chunk_tokens * sum(seconds[stage.first_unit : stage.last_unit + 1]))
    chosen = {}
    for here, there in pairwise(stages):
        way = problem.routes.links(here.device, there.device, chunk_tokens * offers[0].row_bytes)
        if way:
            latency_s, bytes_per_s = sum(link.latency_s for link in way), min(link.bytes_per_s for link in way)
            link = Link(here.device, there.device, latency_s, bytes_per_s)
            chosen[here.last_unit] = codec_for(link, chunk_s, offers, chunk_tokens)
    return chosen


def sent_in(problem: Problem, codecs: Mapping[int, str], offers: Sequence[Offer]) -> Problem:
    """The problem in which what leaves some units is as small as these codecs make it."""
    share_of = {offer.codec: offer.row_bytes / offers[0].row_bytes for offer in offers}
    units = list(problem.units)
    for unit, codec in codecs.items():
        units[unit] = replace(units[unit], output_bytes=units[unit].output_bytes * share_of[codec])
    return replace(problem, units=tuple(units))


def _prompt_s(link: Link, stage_chunk_s: Sequence[float], offer: Offer, chunk_tokens: int) -> float:
    sending_s = chunk_tokens * (offer.row_bytes / link.bytes_per_s + offer.row_s)
    slowest_s = max(*stage_chunk_s, sending_s)
    return sum(stage_chunk_s) + link.latency_s + sending_s + (PROMPT_CHUNKS - 1) * slowest_s
