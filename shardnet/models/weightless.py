"""Modules without weights, made in one thread while others make theirs with: `accelerate.init_empty_weights` changes
`nn.Module` for the whole process, and for good where two threads enter and leave it crosswise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from shardnet.process.late_imports import META_KERNELS, import_whole

ONE_AT_A_TIME = threading.RLock()
"""transformers exchanges functions of `torch.nn.init` while it makes a model. And its modules import each other in
circles: of two threads that import some of them at once, one may find a module that is not whole."""


@contextmanager
def weightless() -> Iterator[None]:
    """In this block, modules made in this thread have their large parameters on the meta device, buffers for real."""
    with ONE_AT_A_TIME:
        import_whole(META_KERNELS)
        with _EmptyOnMeta():
            yield


def to_meta(module: nn.Module) -> None:
    """Bring those parameters there too that a module has filled with ones or zeros: norms, biases."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and not parameter.is_meta:
                owner._parameters[name] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)


class _EmptyOnMeta(TorchFunctionMode):
    """`torch.empty`, from which layers make their parameters, goes to the meta device. Modes belong to a thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
