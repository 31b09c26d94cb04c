"""The model that a cluster holds now."""

from __future__ import annotations

from typing import NamedTuple

from shardnet.cluster.model import Model
from shardnet.transport.source_messages import ModelMark


class Loaded(NamedTuple):
    """A model, and the number that sources know it by."""

    number: int
    """No other one of this cluster gets it."""
    model: Model
    wire: str | None
    """What hidden states travel in; None for the model's own."""
    weights: str
    """In how many bits they are held: one of `quantised.schemes.SCHEMES`."""

    @property
    def mark(self) -> ModelMark:
        profile = self.model.profile
        wire = self.wire or profile.dtype
        weights = profile.few_bits if profile.unit_weights else self.weights
        return ModelMark(profile.name, self.model.checkpoint, profile.dtype, wire, weights, profile.kv_dtype)
