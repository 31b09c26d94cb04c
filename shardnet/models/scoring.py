"""How likely a text is, token by token, where its logits are: of these, a few rows are there at a time.

Shapes: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST_LOGITS = 2**22
"""That are there at once: 16 MiB in float32."""


class ScoredTokens:
    """Some tokens of a text in one step: what follows each of them, and what is found of that.

    Attributes:
        log_likelihoods: [T] float32, of the target behind each token, given all before it. No numbers where the logits
            are none.
        likeliest: [T] int64, the id with the greatest logit.
    """

    __slots__ = ("likeliest", "log_likelihoods", "targets")

    def __init__(self, targets: Tensor) -> None:
        """Args: `targets`, the ids [T] int64 that follow."""
        self.targets = targets
        self.log_likelihoods = torch.empty(0)
        self.likeliest = torch.empty(0, dtype=torch.int64)

    def fill(self, hidden_TH: Tensor, logits_of: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        """Score the tokens whose last hidden states these are.

        Args:
            logits_of: hidden states [t, H] -> logits [t, V] in float32.
        """
        most_rows = max(1, MOST_LOGITS // vocabulary)
        targets = self.targets.to(hidden_TH.device)
        found = [
            _score(logits_of(rows), ids)
            for rows, ids in zip(hidden_TH.split(most_rows), targets.split(most_rows), strict=True)
        ]
        self.log_likelihoods = torch.cat([likelihoods for likelihoods, _ in found]).cpu()
        self.likeliest = torch.cat([likeliest for _, likeliest in found]).cpu()


def _score(logits_tV: Tensor, targets_t: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihoods [t] of the targets, and the likeliest ids [t]."""
    chosen = logits_tV.gather(1, targets_t[:, None])[:, 0]
    return chosen - logits_tV.logsumexp(dim=1), logits_tV.argmax(dim=1)
