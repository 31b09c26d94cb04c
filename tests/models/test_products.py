"""Products in tiles are `F.linear`'s, and shards take them where there are many rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shardnet.models import products
from shardnet.models.products import LEAST_ROWS, Projection


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_rows", "num_inputs", "num_outputs"), [(1, 8, 5), (13, 48, 97), (40, 20_000, 33)])
def test_tiles_make_the_same_product(
    dtype: torch.dtype, num_rows: int, num_inputs: int, num_outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "TILE_ELEMENTS", 1 << 10)
    torch.manual_seed(0)
    rows = torch.randn(num_rows, num_inputs).to(dtype)
    weight = torch.randn(num_outputs, num_inputs).to(dtype)
    for bias in (None, torch.randn(num_outputs).to(dtype)):
        exact = F.linear(rows.double(), weight.double(), None if bias is None else bias.double())
        outputs = Projection(weight, bias).in_tiles(rows)
        assert outputs.dtype == dtype and outputs.is_contiguous()
        tolerance = torch.finfo(dtype).eps * exact.abs().max()
        assert (outputs.double() - exact).abs().max() < tolerance


def test_few_rows_and_float32_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_half_instructions", lambda: False)
    taken = []
    monkeypatch.setattr(Projection, "in_tiles", lambda _, rows: taken.append((len(rows), rows.dtype)))
    for dtype in (torch.float32, torch.bfloat16):
        for num_rows in (1, LEAST_ROWS - 1, LEAST_ROWS):
            Projection(torch.ones(3, 4, dtype=dtype))(torch.ones(num_rows, 4, dtype=dtype))
    assert taken == [(LEAST_ROWS, torch.bfloat16)]
