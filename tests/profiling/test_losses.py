"""What few bits cost a model, as it is kept for those who choose bits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from shardnet.profiling.losses import Loss, LossStore


def test_the_measurement_on_the_longest_text_is_kept(tmp_path: Path) -> None:
    store = LossStore(tmp_path)
    store.save("m", {"int8": Loss(0.01, 1000, "long"), "int4": Loss(0.1, 10, "short")})
    store.save("m", {"int8": Loss(0.5, 10, "short"), "int4": Loss(0.2, 1000, "long")})
    assert store.load("m") == {"int8": Loss(0.01, 1000, "long"), "int4": Loss(0.2, 1000, "long")}
    assert store.load("another") == {}


@pytest.mark.parametrize("change", [math.inf, math.nan])
def test_a_scheme_with_which_a_model_knows_nothing_leaves_what_is_known_of_others(
    tmp_path: Path, change: float
) -> None:
    store = LossStore(tmp_path)
    store.save("m", {"int8": Loss(0.01, 1000, "a text"), "int4": Loss(0.1, 10, "a text")})
    store.save("m", {"int4": Loss(change, 1000, "a text")})
    assert store.load("m") == {"int8": Loss(0.01, 1000, "a text")}
