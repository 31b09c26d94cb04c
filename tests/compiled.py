"""What tests need that are about products in C."""

from __future__ import annotations

import pytest

from shardnet.quantised.kernels.native import native
from shardnet.quantised.native.products import Native

needs_compiler = pytest.mark.skipif(
    not isinstance(native(), Native), reason="products in C need a compiler: cc, gcc or clang in PATH"
)
