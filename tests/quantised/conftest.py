"""What tests of the products in C share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from native_products import compiled

from shardnet.quantised.native.products import Native


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return compiled(tmp_path_factory)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
