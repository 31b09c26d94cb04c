"""Tensors that several stages of a device use (tied embeddings, say), each loaded once, as long as one uses it."""

from __future__ import annotations

import weakref
from typing import Any

import torch


class SharedWeights(weakref.WeakValueDictionary[Any, torch.Tensor]):
    """By dtype, name and the roots of their pieces; see `load_shard`."""

    def roots(self) -> set[str]:
        """Of the stored tensors that they were read from."""
        return {root for _, _, pieces in list(self) for _, root in pieces}
