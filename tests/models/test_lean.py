"""The short way through a block, where its pieces can be held to the modules that they stand for."""

from __future__ import annotations

import pytest
import torch

from shardnet.models.blocks import RMSNorm
from shardnet.models.lean import _normalise


@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("row", [torch.zeros(1, 8), torch.arange(8.0)[None], torch.full((1, 8), torch.inf)])
def test_one_row_is_normalised_as_the_module_does(row: torch.Tensor, eps: float) -> None:
    """Once, a row of zeros with an epsilon of 0 divided by zero and ended the stage; of NaN its session ends alone."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm, theirs = RMSNorm(8, eps), LlamaRMSNorm(8, eps=eps)
    norm.weight = theirs.weight
    torch.testing.assert_close(_normalise(norm, row), theirs(row), equal_nan=True)
