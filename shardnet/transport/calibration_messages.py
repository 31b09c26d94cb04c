"""How a device is asked to give a unit 4 bits by what a text shows: the wire protocol of `shardnet.calibration`.

Endpoint of every device:

    quantise_unit(StageSpec, windows)     coordinator -> device; QuantisedUnit, after seconds to minutes. Of the spec it
                                          goes by checkpoint, tensors and scheme, and by the one unit of its stage
                                          alone; nothing of it stays on the device

What comes of it depends on what was sent and on nothing else, so that another device can be asked the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class QuantisedMatrix(NamedTuple):
    """As a checkpoint has it; see `shardnet.loader.stored`."""

    stored: str
    blocks: torch.Tensor
    """uint8."""


class QuantisedUnit(NamedTuple):
    """What became of a unit, and of the text in it."""

    matrices: dict[str, QuantisedMatrix]
    """By the names of their tensors."""
    windows: tuple[torch.Tensor, ...]
    """Hidden states behind it, float32 [tokens, hidden size]."""


CALIBRATION_MESSAGES: tuple[type, ...] = (QuantisedMatrix, QuantisedUnit)
"""As `messages.MESSAGE_TYPES`, numbered behind those of `sharing_messages`."""
