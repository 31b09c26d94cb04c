"""The folder that a checkpoint of 4 bits is written to: nothing is said, mixed or named wrongly, whoever is there."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_models import change_header

from shardnet.calibration.folder import CONFIG, UNFINISHED, QuantisedFolder, contents_of
from shardnet.errors import BadRequest, DamagedCheckpoint
from shardnet.loader import open_model

MADE_OF = {"checkpoint": "a"}
HIDDEN = (torch.zeros(3, 64),)


def test_who_comes_when_another_run_is_just_through_is_not_told_to_remove_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page was looked for first and read when the folder was free: "cannot be read. Remove it, and begin anew"."""
    real = fcntl.flock
    (tmp_path / UNFINISHED).write_text(json.dumps({"made_of": MADE_OF, "units_done": 1}))

    def wait(file: int, how: int) -> Any:
        (tmp_path / UNFINISHED).rename(tmp_path / CONFIG)
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", wait)
    with pytest.raises(BadRequest, match="There is something in"):
        QuantisedFolder(tmp_path, 6, MADE_OF).begin()
    assert (tmp_path / CONFIG).is_file()


def test_what_is_copied_from_a_model_that_changes_is_not_done(tiny: Path, tmp_path: Path) -> None:
    """The coordinator copies what stays as it was, long after a device has read the unit and found it unchanged."""
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    files = open_model(str(model), "bfloat16")
    folder = QuantisedFolder(tmp_path / "out", 6, MADE_OF)
    assert folder.begin() == ()
    folder.add(0, contents_of(files, 0, {}, {}), HIDDEN, files.copy)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DamagedCheckpoint, match="is being changed"):
        folder.add(1, contents_of(files, 1, {}, {}), HIDDEN, files.copy)
    folder.close()
    again = QuantisedFolder(tmp_path / "out", 6, MADE_OF)
    assert torch.equal(again.begin()[0], HIDDEN[0]) and again.num_done == 1
    again.close()


def test_a_tensor_of_nothing_gives_no_other_one_its_name(tiny: Path, tmp_path: Path) -> None:
    """It lies where another one begins, by which that one was looked up."""
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    name = "model.layers.0.mlp.down_proj.weight"

    def add(header: dict[str, Any]) -> None:
        first = header[name]["data_offsets"][0]
        header["nothing"] = {"dtype": "F32", "shape": [0], "data_offsets": [first, first]}

    before = open_model(str(tiny), "bfloat16")
    change_header(model / "model.safetensors", add)
    after = open_model(str(model), "bfloat16")
    found, wanted = contents_of(after, 1, {}, {}), contents_of(before, 1, {}, {})
    assert found.keys() == wanted.keys() and name in found
