"""A weight of few bits as numbers, before a kernel lays it out: what rounding and GGUF files give, and kernels take.

Shapes: N outputs, K inputs, G inputs of a group.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Grouped(NamedTuple):
    """A weight [N, K] whose every G inputs of a row share a scale and a minimum: codes * scale + minimum."""

    codes: Tensor
    """uint8 [N, K]."""
    scales: Tensor
    """float32 [N, K / G]."""
    minima: Tensor
    """float32 [N, K / G]."""
    bits: int
    """4: codes are below 16; 8: below 256."""

    @property
    def group(self) -> int:
        """G."""
        return self.codes.shape[1] // self.scales.shape[1]

    def floats(self) -> Tensor:
        """The numbers that it stands for, float32 [N, K]."""
        codes = self.codes.unflatten(1, (-1, self.group)).float()
        return codes.mul_(self.scales[..., None]).add_(self.minima[..., None]).flatten(1)
