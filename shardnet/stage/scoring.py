"""A session that samples nothing: where the head is, the tokens of its text are scored, chunk by chunk as they come."""

from __future__ import annotations

import torch

from shardnet.errors import BadRequest
from shardnet.models.scoring import Likelihoods, ScoredTokens
from shardnet.transport.messages import Part
from shardnet.transport.session_messages import SampledToken, SessionSpec


def check_targets(spec: SessionSpec, num_ids: int) -> None:
    """
    Raises:
        BadRequest: what follows the tokens of a text is not as many ids as they are, or none of the vocabulary: that
            would end the whole stage.
    """
    fits = all(0 <= token_id < num_ids for token_id in spec.targets)
    if spec.targets and not (fits and len(spec.targets) == spec.prompt_tokens == spec.capacity_tokens):
        raise BadRequest(
            f"Session {spec.session} is to score {len(spec.targets)} ids behind {spec.prompt_tokens} tokens: there "
            f"must be one of 0 to {num_ids - 1} behind each."
        )


def to_score(spec: SessionSpec, part: Part) -> ScoredTokens | None:
    """What is to be found of some tokens of a session; None where they are not scored."""
    if not spec.targets:
        return None
    targets = torch.tensor(spec.targets[part.position : part.end])
    return ScoredTokens(targets, max(spec.sampling.logprobs, 0))


def scored_tokens(spec: SessionSpec, part: Part, scored: ScoredTokens) -> list[SampledToken] | None:
    """What the source is told of them; None where the scores were no numbers."""
    if bool(scored.log_likelihoods.isnan().any()):
        return None
    told = zip(
        scored.targets.tolist(),
        scored.log_likelihoods.tolist(),
        scored.likeliest.tolist(),
        _pairs(*scored.alternatives),
        strict=True,
    )
    return [
        SampledToken(spec.session, index, token_id, spec.finish_reason(index, token_id), likelihood, likeliest, 0, best)
        for index, (token_id, likelihood, likeliest, best) in enumerate(told, start=part.position)
    ]


def likelihood_of(token: SampledToken, logits_V: torch.Tensor, num_alternatives: int) -> SampledToken:
    """A token that was sampled, with how likely the model holds it and the likeliest ones in its place.

    Args:
        logits_V: fp32, as the model has them.
    """
    num_best = min(num_alternatives, len(logits_V))
    found = Likelihoods.of(logits_V[None], torch.tensor([token.token_id]), num_best)
    [best] = _pairs(found.best_ids, found.best)
    return token._replace(log_likelihood=found.of_tokens.item(), alternatives=best)


def _pairs(ids_tK: torch.Tensor, likelihoods_tK: torch.Tensor) -> list[tuple[tuple[int, float], ...]]:
    rows = zip(ids_tK.tolist(), likelihoods_tK.tolist(), strict=True)
    return [tuple(zip(ids, likelihoods, strict=True)) for ids, likelihoods in rows]
