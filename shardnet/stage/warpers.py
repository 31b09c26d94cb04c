"""What options make of the scores of the next token before one is drawn: the arithmetic of `transformers`, bit for bit.

A device samples without having `transformers`; the tests hold each of these to the processor there that it stands for.

Shapes: V vocabulary, n tokens so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.transport.session_messages import SamplingOptions

Warper = Callable[[Tensor], Tensor]
"""Scores [1, V] -> scores [1, V]; those of tokens that go become -inf."""


def penalise(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Scores [1, V] with those of tokens that were there made worse; ids [1, n], of which those beyond V have none."""
    num_scores = scores.shape[-1]
    ids = ids.clamp(max=num_scores)
    scores = F.pad(scores, (0, 1))
    seen = torch.gather(scores, 1, ids)
    seen = torch.where(seen < 0, seen * penalty, seen / penalty)
    return scores.scatter(1, ids, seen)[..., :num_scores]


def penalise_answer(scores: Tensor, counts: Mapping[int, int], presence: float, frequency: float) -> Tensor:
    """Scores [1, V], less what the tokens of the answer lose: the formula of the OpenAI API.

    Args:
        counts: of each token of the answer, how often it is there.
        presence: lost by each that is there.
        frequency: lost for each time that it is there.
    """
    ids = torch.tensor(list(counts), dtype=torch.long)
    lost = presence + frequency * torch.tensor(list(counts.values()), dtype=scores.dtype)
    return scores.index_add(1, ids, -lost[None])


def add_bias(scores: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Scores [1, V] with something added to those of some ids, each of which is named once."""
    ids = torch.tensor([token_id for token_id, _ in bias], dtype=torch.long)
    return scores.index_add(1, ids, torch.tensor([[each for _, each in bias]], dtype=scores.dtype))


def forbid(scores: Tensor, ids: Sequence[int]) -> Tensor:
    """Scores [1, V] in which these tokens are impossible; some ids may have no score."""
    known = [token_id for token_id in ids if 0 <= token_id < scores.shape[-1]]
    return scores.index_fill(1, torch.tensor(known, dtype=torch.long), -math.inf)


def warpers_of(options: SamplingOptions) -> list[Warper]:
    """What a session that is not greedy does to its scores, in the order of `GenerationMixin._get_logits_processor`."""
    if options.temperature == 0.0:
        return []
    warpers: list[Warper] = []
    if options.temperature != 1.0:
        warpers.append(partial(_divide, options.temperature))
    if options.top_k:
        warpers.append(partial(_keep_best, options.top_k))
    if options.top_p < 1.0:
        keep = _keep_most_probable_of_kept if options.top_k else _keep_most_probable
        warpers.append(partial(keep, options.top_p))
    if options.min_p > 0.0:
        warpers.append(partial(_keep_probable, options.min_p))
    return warpers


def _divide(temperature: float, scores: Tensor) -> Tensor:
    return scores / temperature


def _keep_best(num_best: int, scores: Tensor) -> Tensor:
    """Top-k."""
    least = torch.topk(scores, min(num_best, scores.size(-1)))[0][..., -1, None]
    return scores.masked_fill(scores < least, -math.inf)


def _keep_most_probable(top_p: float, scores: Tensor) -> Tensor:
    """Top-p."""
    ordered, order = torch.sort(scores, descending=False)
    is_removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    is_removed[..., -1:] = False
    return scores.masked_fill(is_removed.scatter(1, order, is_removed), -math.inf)


def _keep_most_probable_of_kept(top_p: float, scores: Tensor) -> Tensor:
    """Top-p behind one that kept few tokens: only these are sorted, not the vocabulary.

    Where tokens are even and not all of them stay, those of higher ids do. (The sort of transformers says nothing of
    that.)
    """
    tokens = (scores[0] > -math.inf).nonzero()[:, 0]
    ordered, order = scores[0, tokens].sort(stable=True)
    below = ordered.softmax(dim=-1).cumsum(dim=-1)[:-1]
    removed = tokens[order[:-1][below <= 1 - top_p]]
    return scores.index_fill(1, removed, -math.inf)


def _keep_probable(min_p: float, scores: Tensor) -> Tensor:
    """Min-p: tokens with at least that part of the best one's probability."""
    probabilities = torch.softmax(scores, dim=-1)
    is_removed = probabilities < min_p * probabilities.amax(dim=-1, keepdim=True)
    best = torch.topk(probabilities, 1, dim=-1).indices
    is_removed.scatter_(-1, best, False)
    return scores.masked_fill(is_removed, -math.inf)
