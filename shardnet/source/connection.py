"""A source's questions to the coordinator, asked again while it is away for a moment."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from shardnet.errors import BadRequest, CallTimeout, ClusterError, DeviceLost, Evicted, ShardnetError
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import COORDINATOR

AWAY_S = 60.0
"""How long a coordinator may be away that was killed and is started again: as long as its device looks for it."""
ENDED_S = 5.0
"""The same for one that has left in order, or whose place at the door is empty."""
AGAIN_S = 0.1
LIFE_S = 5.0
"""How long a coordinator may take to show that it lives, when it has not answered in time."""


class Connection:
    """Safe to use from several threads."""

    def __init__(self, transport: Transport, away_s: float = AWAY_S, ended_s: float = ENDED_S) -> None:
        self.transport = transport
        self._away_s = away_s
        self._ended_s = ended_s
        self._left_s: float | None = None
        """When the coordinator left; None while there is one."""
        self._is_closed = False
        transport.on_members(self._hear)

    @property
    def name(self) -> str:
        """Of this source."""
        return self.transport.name

    def ask(self, endpoint: str, *args: Any, timeout_s: float, stop: Future[None] | None = None) -> Any:
        """What an endpoint of the coordinator answers. It may be asked several times, for as long as it lives.

        Args:
            timeout_s: how long one answer may take until it is asked again.
            stop: waits no longer than until this is done, and then returns None.

        Raises:
            ShardnetError: the answer is an error.
            ClusterError: the coordinator was away for too long.
        """
        away_since_s: float | None = None
        while stop is None or not stop.done():
            answer = self.transport.call(COORDINATOR, endpoint, *args, timeout_s=timeout_s)
            wait((answer,) if stop is None else (answer, stop), return_when=FIRST_COMPLETED)
            if not answer.done():
                break
            error = answer.exception()
            if error is None:
                return answer.result()
            if self._is_closed:
                raise BadRequest("this cluster was closed. Connect to it again.")
            if not self._is_away(error):
                raise error
            now_s = time.monotonic()
            if isinstance(error, CallTimeout) and self._lives(stop):  # what it is asked takes its time
                away_since_s = None
                continue
            away_since_s = now_s if away_since_s is None else away_since_s
            self._check_patience(now_s, away_since_s)
            _rest(stop)
        return None

    def tell(self, endpoint: str, *args: Any, timeout_s: float) -> Future[Any]:
        """Ask once, and wait for nothing."""
        return self.transport.post(COORDINATOR, endpoint, *args, timeout_s=timeout_s)

    def close(self) -> None:
        """Whoever waits, and whoever asks, gets an error. To be called before the transport is closed."""
        self._is_closed = True

    def _is_away(self, error: BaseException) -> bool:
        """Whether an error says nothing but that the coordinator did not answer."""
        if not isinstance(error, ShardnetError) or isinstance(error, Evicted):
            return False
        if COORDINATOR not in self.transport.members():
            return True
        return isinstance(error, (DeviceLost, CallTimeout)) and error.device == COORDINATOR

    def _lives(self, stop: Future[None] | None) -> bool:
        answer = self.transport.post(COORDINATOR, "ping", timeout_s=LIFE_S)
        wait((answer,) if stop is None else (answer, stop), return_when=FIRST_COMPLETED)
        if not answer.done():
            return False
        error = answer.exception()
        return error is None or not self._is_away(error)

    def _check_patience(self, now_s: float, away_since_s: float) -> None:
        """
        Raises:
            ClusterError: the coordinator was away for too long.
        """
        left_s = self._left_s
        if left_s is not None and now_s - left_s >= self._ended_s:
            raise ClusterError("the cluster was ended. Start it again: shardnet up")
        if now_s - away_since_s >= self._away_s:
            raise ClusterError(
                f"the coordinator of this cluster has not answered for {self._away_s:.0f} s. Is shardnet up running?"
            )

    def _hear(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        if COORDINATOR in joined:
            self._left_s = None
        elif COORDINATOR in left:
            self._left_s = time.monotonic()


def _rest(stop: Future[None] | None) -> None:
    if stop is None:
        threading.Event().wait(AGAIN_S)
    else:
        wait((stop,), timeout=AGAIN_S)
