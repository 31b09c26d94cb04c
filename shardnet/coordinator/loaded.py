"""The model that a cluster holds now."""

from __future__ import annotations

from typing import NamedTuple

from shardnet.cluster.model import Model


class Loaded(NamedTuple):
    """A model, and the number that sources know it by."""

    number: int
    """No other one of this cluster gets it."""
    model: Model
