"""How a stage holds its weights, keys and values, as its device is told with `StageSpec`."""

from __future__ import annotations

from typing import NamedTuple

from shardnet.plan import KernelOrder


class Holding(NamedTuple):
    """The words are those of `loader.load_shard`."""

    scheme: str = "auto"
    """In how many bits weights are: one of `quantised.schemes.SCHEMES`."""
    by_unit: tuple[str, ...] = ()
    """The same of each unit of the model, where units differ."""
    kernels: tuple[KernelOrder, ...] = ()
    """Which hold a matrix of few bits on this device, as far as that was timed: the same for all stages of a model."""
    kv_dtype: str = "auto"
    """In what keys and values are kept: one of `quantised.kv_names.KV_DTYPES`."""


HOLDING_MESSAGES = (KernelOrder, Holding)
