"""The products in C, compiled for these tests; where they cannot be, the tests that want them are skipped."""

from __future__ import annotations

import pytest

from shardnet.quantised.native.compiling import WhyNot
from shardnet.quantised.native.products import Native, build


def compiled(tmp_path_factory: pytest.TempPathFactory) -> Native:
    built = build(tmp_path_factory.mktemp("cache"))
    if isinstance(built, WhyNot):
        pytest.skip(built.reason)
    return built
