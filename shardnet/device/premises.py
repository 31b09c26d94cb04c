"""What the stages of one device share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from shardnet.device.memory import DeviceMemory
from shardnet.device.shared_weights import SharedWeights
from shardnet.device.vocabularies import Vocabularies
from shardnet.models.kv import ON_CPU
from shardnet.shipping.depot import Depot
from shardnet.stage.pace import Pace, own_pace
from shardnet.transport.base import Transport


@dataclass(frozen=True)
class Premises:
    """A device's network, threads, files and memory."""

    transport: Transport
    num_threads: int
    depot: Depot
    """Its weights on disk."""
    memory: DeviceMemory
    vocabularies: Vocabularies
    """What the tokens of its models spell."""
    pace: Pace = own_pace
    weights: SharedWeights = field(default_factory=SharedWeights)
    device: torch.device = ON_CPU
    """Where stages compute."""
