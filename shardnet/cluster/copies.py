"""Under which name the devices know a checkpoint, and that every one of them has a copy.

A checkpoint whose weights were hashed before, or are few, goes by its content. A large one would keep its first start
waiting: it goes by its files' stamps, which the devices of this machine can follow, and is hashed only when a device
cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from shardnet.errors import ModelNotFound
from shardnet.loader import ADVICE, AT_ONCE_BYTES, ModelFiles, enter, fingerprint
from shardnet.progress import Progress
from shardnet.transport.base import Transport

ASK_S = 60.0


def require_copies(
    files: ModelFiles,
    devices: Sequence[str],
    transport: Transport,
    cache_dir: Path,
    progress: Progress,
    wait_for: Callable[[Future[Any]], Any] = Future.result,
) -> ModelFiles:
    """The model under a name by which every device finds its own copy.

    Args:
        cache_dir: the coordinator's; devices have their own.
        wait_for: waits for an answer, or raises when waiting makes no sense any more.

    Raises:
        ModelNotFound: a device has no copy. It is no failure of the device's, and trying again would not help.
    """

    def lacking(named: ModelFiles) -> list[str]:
        enter(named.copy, cache_dir)
        asked = [transport.call(device, "has_copy", named.copy.name, timeout_s=ASK_S) for device in devices]
        return [device for device, answer in zip(devices, asked, strict=True) if not wait_for(answer)]

    copy = fingerprint(files.copy, cache_dir, progress, most_bytes=AT_ONCE_BYTES)
    named = files if copy is None else files.under(copy)
    without = lacking(named)
    if without and copy is None:
        copy = fingerprint(files.copy, cache_dir, progress)
        assert copy is not None, "there was no limit"
        named = files.under(copy)
        without = lacking(named)
    if without:
        have = "has" if len(without) == 1 else "have"
        raise ModelNotFound(
            f"{', '.join(without)} {have} no copy of {files.name} (checkpoint {named.copy.name[:16]}). {ADVICE}"
        )
    return named
