"""Says aside what one more phone would bring, when a model is loaded or finds no room."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from shardnet.coordinator.coordinator import Coordinator
from shardnet.coordinator.events import ClusterEvent
from shardnet.described.clusters import DeviceClass, read_device_class
from shardnet.errors import ShardnetError
from shardnet.launch.files.config_files import DeviceClasses
from shardnet.process.threads import on_thread

CLASS, WHAT = "phone_high_end", "a phone"
WHEN = {"loaded", "not loaded", "resumed", "moved"}
"""Events after which it may be something else."""
_log = logging.getLogger(__name__)


class Hints:
    """Looks after events, one look at a time, and tells what is new."""

    def __init__(self, coordinator: Coordinator, tell: Callable[[ClusterEvent], object]) -> None:
        self._coordinator = coordinator
        self._tell = tell
        self._last = ""
        self._looking = threading.Lock()

    def hear(self, event: ClusterEvent | None) -> None:
        """Something has happened, or nothing has. Waits for nothing."""
        if event is not None and event.event in WHEN:
            on_thread("shardnet-hints", self._look)

    def _look(self) -> None:
        with self._looking:
            try:
                kind = _class()
                text = "" if kind is None else self._coordinator.one_more(kind, WHAT)
            except ShardnetError:  # a device is just going
                return
            except Exception as error:  # whatever it is, the cluster goes on
                _log.info("Nothing is predicted: %s: %s", type(error).__name__, error)
                return
            if text and text != self._last:
                self._last = text
                self._tell(ClusterEvent("predicted", text))


def _class() -> DeviceClass | None:
    """None where what reads its file is not installed."""
    try:
        return read_device_class(DeviceClasses()[CLASS], CLASS)
    except ShardnetError:
        return None
