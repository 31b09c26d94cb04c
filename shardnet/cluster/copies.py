"""Under which name the devices know a checkpoint, and that every one of them has a copy or can fetch what it needs.

A checkpoint whose weights were hashed before, or are few, goes by its content. A large one would keep its first start
waiting: it goes by its files' stamps, which the devices of this machine can follow, and is hashed only when a device
cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from shardnet.loader import AT_ONCE_BYTES, ModelFiles, enter, fingerprint
from shardnet.progress import Progress
from shardnet.shipping.dispatch import Dispatch

ASK_S = 60.0


def require_copies(
    files: ModelFiles,
    devices: Sequence[str],
    dispatch: Dispatch,
    cache_dir: Path,
    progress: Progress,
    wait_for: Callable[[Future[Any]], Any] = Future.result,
) -> ModelFiles:
    """The model under a name by which every device finds its own copy.

    Args:
        cache_dir: the coordinator's; devices have their own.
        wait_for: waits for an answer, or raises when waiting makes no sense any more.

    Raises:
        ShardnetError: a device has none, and cannot take in what it would have to know to fetch of it.
    """

    def lacking(named: ModelFiles) -> list[str]:
        enter(named.copy, cache_dir)
        dispatch.offer(named.copy)
        asked = [dispatch.transport.call(device, "has_copy", named.copy.name, timeout_s=ASK_S) for device in devices]
        has_copy = {device: wait_for(answer) for device, answer in zip(devices, asked, strict=True)}
        for device in devices:
            if has_copy[device]:
                dispatch.has_all(device, named.copy)
        return [device for device in devices if not has_copy[device]]

    copy = fingerprint(files.copy, cache_dir, progress, most_bytes=AT_ONCE_BYTES)
    named = files if copy is None else files.under(copy)
    without = lacking(named)
    if without and copy is None:
        copy = fingerprint(files.copy, cache_dir, progress)
        assert copy is not None, "there was no limit"
        named = files.under(copy)
        without = lacking(named)
    for told in [dispatch.give_list(device, named.copy) for device in without]:
        wait_for(told)
    return named
