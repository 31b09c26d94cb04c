"""Puts `wire` into torch RPC in the place of pickle: what C++ hands to Python is read as a frame, or refused.

torch calls four functions of `torch.distributed.rpc.internal` from C++, and looks them up when an agent starts. All
four are ours from then on, and torch's own unpickler is taken out of its reach as well. Operators and TorchScript are
served by C++ before Python is asked: see `operators.py` and docs/security.md.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.distributed.rpc import internal

from shardnet.errors import ClusterError
from shardnet.transport.failure import Failure
from shardnet.transport.rpc import entry, operators
from shardnet.transport.rpc.entry import Refused
from shardnet.transport.rpc.objects import handles_that_arrive
from shardnet.transport.rpc.replies import NOTHING_FRAME, Reply, reply_with
from shardnet.transport.wire import frames as wire
from shardnet.versions import TORCH_WANTED, torch_untried

_log = logging.getLogger(__name__)


def install() -> None:
    """From now on, read nothing but frames. Safe to call again. With a torch that was not tried, says so.

    Raises:
        ClusterError: this torch does not have what is replaced.
    """
    if (untried := torch_untried(torch.__version__)) is not None:
        _log.warning("%s", untried)
    for name, replacement in _REPLACED.items():
        if not hasattr(internal, name):
            raise ClusterError(
                f"torch {torch.__version__} has no {name} in its RPC, so that shardnet cannot guard it. "
                f"Install another one: pip install '{TORCH_WANTED}'"
            )
        setattr(internal, name, replacement)
    operators.refuse_files_to_strangers()


def read(payload: bytes, tensors: list[torch.Tensor]) -> Any:
    """Make of what arrived a request or an answer of `wire`, or `Refused`. Never raises."""
    if payload == NOTHING_FRAME:
        return NO_ANSWER
    try:
        return wire.unpack(payload, tensors, handles_that_arrive)
    except Exception as error:  # also of torch, where a handle is none
        return Refused(wire.kind_of(payload), str(error).split("\n", 1)[0].rstrip(". "))


def write(result: Any) -> wire.Packed:
    """The frame of a reply, once. Nothing else leaves: a stranger may ask for what an RRef holds."""
    if type(result) is Reply:
        return result.take()
    return reply_with(Failure("ClusterError", "This may not travel.", ""), "", entry.NOBODY).take()


def _believe(result: Any) -> None:
    """torch raises here what an answer says. Ours are read by `answers`."""


NO_ANSWER = wire.Answer(None)
"""What most endpoints say."""


class _NoUnpickler:
    """Stands where torch takes its unpickler from."""

    def __init__(self, *_: Any) -> None:
        raise ClusterError("A device of shardnet unpickles nothing.")


_REPLACED = {
    "deserialize": read,
    "serialize": write,
    "_run_function": entry.serve,
    "_handle_exception": _believe,
    "_unpickler": _NoUnpickler,
}
