"""A gate that is started again where its process has ended: phones end processes as they like, and a machine without
its gate reaches no other one, and is reached by none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from shardnet.coordinator.own_gate import Gate
from shardnet.errors import ShardnetError

if TYPE_CHECKING:
    from typing_extensions import Self

LOOK_EVERY_S = 1.0
AGAIN_S = 5.0
"""After which it is looked again when one was started, or could not be."""


class KeptGate:
    """A context manager: leaving it ends the gate.

    Args:
        start: starts one, or finds one that is there.

    Raises:
        UsageError, ClusterError: as `start`, the first time.
    """

    def __init__(self, start: Callable[[], Gate]) -> None:
        self._start = start
        self.gate = start()
        """The present one."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shardnet-kept-gate", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.gate.close()

    def _watch(self) -> None:
        wait_s = LOOK_EVERY_S
        while not self._over.wait(wait_s):
            wait_s = LOOK_EVERY_S
            if self.gate.has_ended:
                wait_s = AGAIN_S
                with suppress(ShardnetError):  # its port is taken meanwhile, or the disk is full
                    self._replace()

    def _replace(self) -> None:
        held, self.gate = self.gate.held, self._start()
        if held is not None:
            os.close(held)
