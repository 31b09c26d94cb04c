"""Chooses the next token of a session from its logits. Runs where the head is, so that only ids travel.

The warpers are those of `transformers`, in its order, and the random stream of a session is its own: with the same
seed a session gets the same tokens as `torch.manual_seed(seed); model.generate(...)`, whatever the split and whichever
other sessions share the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shardnet.errors import BadRequest
from shardnet.transport.messages import SamplingOptions, SessionSpec


class Sampler:
    """The sampler of one session."""

    def __init__(self, spec: SessionSpec) -> None:
        options = spec.sampling
        self.is_greedy = options.temperature == 0.0
        self._processors = _processors(options)
        self._generator = torch.Generator().manual_seed(options.seed)
        self._overflow = (
            f"with temperature {options.temperature:g} and repetition-penalty {options.repetition_penalty:g} the scores"
            " of the next token are no finite numbers. Choose values nearer to 1, or load the model as float32."
        )
        self._ids = list(spec.prompt_ids) if options.repetition_penalty != 1.0 else None

    @property
    def is_argmax(self) -> bool:
        """True where the choice is the plain argmax, which a step does for all such sessions at once."""
        return self.is_greedy and not self._processors

    def sample(self, logits_V: torch.Tensor) -> int:
        """Choose from `logits_V` [vocabulary], fp32.

        Raises:
            BadRequest: the options have made the scores infinite.
        """
        ids = cast(torch.LongTensor, torch.tensor([self._ids or []], dtype=torch.long))
        scores = self._processors(ids, cast(torch.FloatTensor, logits_V[None]))
        if self.is_greedy:
            token = int(scores.argmax(dim=-1))
        else:
            probabilities = torch.softmax(scores, dim=-1)
            if not bool(probabilities.isfinite().all()):
                raise BadRequest(self._overflow)
            token = int(torch.multinomial(probabilities, num_samples=1, generator=self._generator))
        if self._ids is not None:
            self._ids.append(token)
        return token


def sample_step(samplers: Sequence[Sampler], logits_NV: torch.Tensor) -> list[int | BadRequest]:
    """Choose the next token of each session of a step; `logits_NV` [sessions, vocabulary], fp32.

    A session that cannot go on has its error in the place of a token: the others do go on.
    """
    if all(sampler.is_argmax for sampler in samplers):
        greedy: list[int | BadRequest] = logits_NV.argmax(dim=-1).tolist()
        return greedy
    return [_sample_or_error(sampler, row) for sampler, row in zip(samplers, logits_NV, strict=True)]


def _sample_or_error(sampler: Sampler, logits_V: torch.Tensor) -> int | BadRequest:
    try:
        return sampler.sample(logits_V)
    except BadRequest as error:
        return error


def check_sampling(options: SamplingOptions) -> str | None:
    """What is wrong with `options`, in one sentence; None where nothing is."""
    if not (math.isfinite(options.temperature) and options.temperature >= 0):
        return f"temperature must be 0 (greedy) or more, but is {options.temperature}."
    if options.top_k < 0:
        return f"top-k must be 0 (all tokens) or more, but is {options.top_k}."
    if not 0 < options.top_p <= 1:
        return f"top-p must be above 0 and at most 1, but is {options.top_p}."
    if not 0 <= options.min_p <= 1:
        return f"min-p must be between 0 and 1, but is {options.min_p}."
    if not (math.isfinite(options.repetition_penalty) and options.repetition_penalty > 0):
        return f"repetition-penalty must be above 0, but is {options.repetition_penalty}."
    if not 0 <= options.seed < 2**63:
        return f"seed must be between 0 and 2**63 - 1, but is {options.seed}."
    return None


def _processors(options: SamplingOptions) -> LogitsProcessorList:
    """The processors in the order of `GenerationMixin._get_logits_processor`."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty=options.repetition_penalty))
    if options.temperature == 0.0:
        return processors
    if options.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1.0:
        processors.append(TopPLogitsWarper(options.top_p))
    if options.min_p > 0.0:
        processors.append(MinPLogitsWarper(options.min_p))
    return processors
