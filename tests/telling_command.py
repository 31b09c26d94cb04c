"""A command that runs until it is told to end, and tells what happens as lines of JSON."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from typing import Any


class TellingCommand:
    """The process, and what it has told so far."""

    def __init__(self, command: Sequence[object]) -> None:
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def told(self, event: str) -> dict[str, Any] | None:
        """The first event of a kind."""
        return next((each for each in list(self.events) if each.get("event") == event), None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
