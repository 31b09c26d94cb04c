"""How fast a device fetches, where it is told not to take all of its link. Pure: the caller has the clock."""

from __future__ import annotations

import threading


class FetchPace:
    """Shared by all that a device fetches at the same time."""

    def __init__(self, bytes_per_s: float | None) -> None:
        """Args: `bytes_per_s`, at most; None for as fast as it goes."""
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0
        """When the next request may go out."""
        self._lock = threading.Lock()

    def wait_s(self, now_s: float) -> float:
        """How long to wait before the next request; 0 where it may go out."""
        return max(0.0, self._free_s - now_s)

    def take(self, num_bytes: int, now_s: float) -> bool:
        """Ask for so many bytes now; False where that would be too early."""
        with self._lock:
            if now_s < self._free_s:
                return False
            if self._bytes_per_s is not None:
                self._free_s = max(self._free_s, now_s) + num_bytes / self._bytes_per_s
            return True
