"""Few rows of a text, as many experts get, help with the others of it: inputs of the embedded model's second block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shardnet.calibration.unit import outputs_of
from shardnet.cluster.quantises import calibration_text
from shardnet.loader import load_shard, open_model
from shardnet.quantised import calibrated as calibrating
from shardnet.quantised.calibrated import calibrated, shown_by
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form

FORM = Form(4, 64)


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    """Some outputs of a matrix that leads into a feed-forward part, and rows such as it is fed with: the text's hidden
    states before its block, normed and mixed up."""
    files = open_model("smollm2-135m-instruct", "bfloat16")
    ids = torch.tensor(files.tokenizer()(calibration_text())["input_ids"][:1536])
    windows: tuple[Tensor, ...] = ids.split(512)
    shards = [load_shard(files.config, files.tensors_of(unit, unit), unit, unit, "float32") for unit in range(3)]
    for shard in shards[:-1]:
        windows = outputs_of(shard, windows)
    [mlp] = [part for each in shards[-1].modules.values() for name, part in each.named_modules() if name == "mlp"]
    norm = next(
        part for each in shards[-1].modules.values() for name, part in each.named_modules() if "post_att" in name
    )
    assert isinstance(mlp.gate_proj, nn.Linear)
    rows = torch.cat(windows)
    rows = norm(rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))])
    return mlp.gate_proj.weight.detach()[:256], rows.detach()


def off(weight: Tensor, rows: Tensor, num_seen: int) -> float:
    """By how much products with other rows are off, beside those with plainly rounded weights."""
    seen, others = rows[:num_seen], rows[-700:]
    found = calibrated(weight, shown_by(seen.t() @ seen, len(seen)), FORM)
    lost, plainly = ((others @ (each.floats() - weight).t()).square().sum() for each in (found, rounded(weight, FORM)))
    return float(lost / plainly)


def test_the_more_rows_the_less_is_lost_with_others(inputs: tuple[Tensor, Tensor]) -> None:
    lost = [off(*inputs, num_seen) for num_seen in (0, 18, 72, 288, 700)]
    assert lost == sorted(lost, reverse=True), lost
    assert lost[1] < 0.9 and lost[3] < 0.75, lost


def test_without_those_that_were_not_seen_more_would_be_lost_than_by_rounding(
    inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "UNSEEN", 0.0)
    assert off(*inputs, 144) > 1
