"""How likely a text is, token by token, where its logits are: of these, a few rows are there at a time.

Shapes: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MOST_LOGITS = 2**22
"""That are there at once: 16 MiB in float32."""


class AtHead(Protocol):
    """Some tokens of a text in one step, of which not the next one is wanted where the head is."""

    def fill(self, hidden_TH: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        """Take what is wanted of the tokens whose last hidden states these are.

        Args:
            logits_of: hidden states [t, H] -> logits [t, V] in float32.
        """


class ScoredTokens:
    """Some tokens of a text in one step: what follows each of them, and what is found of that.

    Attributes:
        log_likelihoods: [T] float32, of the target behind each token, given all before it. No numbers where the logits
            are none.
        likeliest: [T] int64, the id with the greatest logit.
        alternatives: ids [T, K] int64 and their log-likelihoods [T, K] float32, the likeliest first.
    """

    __slots__ = ("_num_alternatives", "alternatives", "likeliest", "log_likelihoods", "targets")

    def __init__(self, targets: Tensor, num_alternatives: int = 0) -> None:
        """
        Args:
            targets: the ids [T] int64 that follow.
            num_alternatives: K, of which as many are found as the vocabulary has.
        """
        self.targets = targets
        self._num_alternatives = num_alternatives
        self.log_likelihoods = torch.empty(0)
        self.likeliest = torch.empty(0, dtype=torch.int64)
        self.alternatives = (torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0))

    def fill(self, hidden_TH: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        """Score them."""
        most_rows = max(1, MOST_LOGITS // vocabulary)
        targets = self.targets.to(hidden_TH.device)
        found = [
            Likelihoods.of(logits_of(rows), ids, min(self._num_alternatives, vocabulary))
            for rows, ids in zip(hidden_TH.split(most_rows), targets.split(most_rows), strict=True)
        ]
        self.log_likelihoods = torch.cat([each.of_tokens for each in found]).cpu()
        self.likeliest = torch.cat([each.likeliest for each in found]).cpu()
        best_ids, best = torch.cat([each.best_ids for each in found]), torch.cat([each.best for each in found])
        self.alternatives = (best_ids.cpu(), best.cpu())


class Likelihoods(NamedTuple):
    """Of t tokens, each in its place."""

    of_tokens: Tensor
    """[t], their log-likelihoods."""
    likeliest: Tensor
    """[t], ids."""
    best_ids: Tensor
    """[t, K], the likeliest first."""
    best: Tensor
    """[t, K], their log-likelihoods."""

    @classmethod
    def of(cls, logits_tV: Tensor, ids_t: Tensor, num_best: int) -> Likelihoods:
        """Args: `ids_t`, the tokens; `num_best`, K."""
        total = logits_tV.logsumexp(dim=1)
        chosen = logits_tV.gather(1, ids_t[:, None])[:, 0]
        best, best_ids = logits_tV.topk(num_best, dim=1)
        return cls(chosen - total, logits_tV.argmax(dim=1), best_ids, best - total[:, None])
