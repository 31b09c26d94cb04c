"""What devices tell of weights that are on their way to them: shown at once, and an event when all came."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shardnet.progress import Progress
from shardnet.shipping.words import bar_of, outcome_of
from shardnet.transport.shipping_messages import FetchProgress

Note = Callable[[str, str, str, float], object]


class Fetches:
    """Of one loaded, or loading, model."""

    def __init__(self, progress: Progress, note: Note) -> None:
        """Args: `note`, which remembers events, as soon as the model stands."""
        self._progress = progress
        self._note = note
        self._early: list[FetchProgress] | None = []
        """What came before the model stands; None from then on."""
        self._lock = threading.Lock()

    def tell(self, fetched: FetchProgress) -> None:
        """Does not wait."""
        self._progress(bar_of(fetched), fetched.done_bytes, fetched.total_bytes)
        if fetched.done_bytes < fetched.total_bytes:
            return
        with self._lock:
            if self._early is not None:
                self._early.append(fetched)
                return
        self._note_one(fetched)

    def stand(self) -> None:
        """The model has events from now on."""
        with self._lock:
            early, self._early = self._early or [], None
        for fetched in early:
            self._note_one(fetched)

    def _note_one(self, fetched: FetchProgress) -> None:
        self._note("fetched", outcome_of(fetched), fetched.device, fetched.seconds)
