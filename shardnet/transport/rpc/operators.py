"""Keeps torch's operators that open files from what arrives through RPC.

C++ runs any operator that a stranger names, before Python is asked. An operator's kernel can be replaced from Python,
though, and here those of `aten::from_file` are: on threads of RPC it refuses. This takes the sting out of the simplest
attack and is no wall; docs/security.md says what remains.
"""

from __future__ import annotations

import functools
import threading
import warnings
from typing import Any

import torch

from shardnet.errors import ClusterError


@functools.cache
def refuse_files_to_strangers() -> torch.library.Library:
    """Replace the kernel, once in a process. It stays so as long as what is returned."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced is the point
        library.impl("from_file", _from_file, "CPU")
    return library


def _from_file(
    filename: str,
    shared: bool | None = None,
    size: int | None = 0,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> torch.Tensor:
    """`torch.from_file` for threads that Python started, which are all but those of RPC."""
    if isinstance(threading.current_thread(), threading._DummyThread):
        raise ClusterError("No file is opened for another device.")
    dtype = dtype or torch.get_default_dtype()
    num_elements = size or 0
    storage = torch.UntypedStorage.from_file(filename, bool(shared), num_elements * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage)  # type: ignore[arg-type]
