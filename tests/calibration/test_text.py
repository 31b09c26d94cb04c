"""Texts that come to a device with a unit: whoever sends them, a device is still there afterwards, and says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import ring_in_process
from torch import Tensor

from shardnet.calibration.unit import check_windows
from shardnet.device import quantising
from shardnet.errors import BadRequest, DamagedCheckpoint
from shardnet.loader import load_shard, open_model

IDS, HIDDEN = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 64)


def check(model: Path, unit: int, *windows: Tensor) -> None:
    files = open_model(str(model), "float32")
    check_windows(load_shard(files.config, files.tensors_of(unit, unit), unit, unit, "float32"), windows)


def test_what_fits_is_taken(tiny: Path) -> None:
    check(tiny, 0, IDS, IDS[:1] + 256)
    check(tiny, 1, HIDDEN, HIDDEN[:1])


@pytest.mark.parametrize(
    "window",
    [IDS - 1, IDS + 257, IDS.int(), IDS[:0], IDS[None], IDS[0], HIDDEN, torch.zeros(4097, dtype=torch.int64)],
)
def test_what_are_no_ids_of_the_model_is_refused(tiny: Path, window: Tensor) -> None:
    with pytest.raises(BadRequest, match="no text for unit 0"):
        check(tiny, 0, IDS, window)


@pytest.mark.parametrize(
    "window", [IDS, HIDDEN[:, :63], HIDDEN[:0], HIDDEN[0], HIDDEN.double(), HIDDEN / 0, torch.full((4, 64), torch.inf)]
)
def test_what_are_no_hidden_states_of_the_model_is_refused(tiny: Path, window: Tensor) -> None:
    with pytest.raises(BadRequest, match="no text for unit 1"):
        check(tiny, 1, HIDDEN, window)


def test_no_text_at_all_is_refused(tiny: Path) -> None:
    with pytest.raises(BadRequest, match="There is no text"):
        check(tiny, 1)


@pytest.mark.parametrize("last", [1, 4])
def test_numbers_that_are_not_finite_make_no_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    real = quantising.outputs_of

    def outputs(shard: Any, windows: Any) -> tuple[Tensor, ...]:
        return tuple(each / (shard.first_unit < last) for each in real(shard, windows))

    monkeypatch.setattr(quantising, "outputs_of", outputs)
    with ring_in_process(1) as ring, ring.connect() as cluster:
        with pytest.raises(DamagedCheckpoint, match=f"behind unit {last} of .* is no longer of finite numbers"):
            cluster.quantise(tiny, tmp_path / "out", text="a text " * 60)
    assert not (tmp_path / "out" / "config.json").exists()
