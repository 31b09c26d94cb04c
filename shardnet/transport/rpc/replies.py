"""Answers on their way back through torch RPC.

torch asks for an answer's bytes as soon as there is one. Only where a stranger asks by `rpc.remote` it does not: it
would keep the answer for ever. So an answer gives its bytes away once, and those that nobody wanted are emptied.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch

from shardnet.errors import ClusterError
from shardnet.transport.failure import Failure
from shardnet.transport.outcomes import outcome_of
from shardnet.transport.rpc.presence import here, own_name
from shardnet.transport.wire.frames import Answer, Packed, no_handle, pack, pack_posted

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardnet.transport.timers import Timers

KEPT_S = 10.0
"""An answer is emptied after one to two times this. torch fetches it within a millisecond, but a process may be frozen
meanwhile, so that two timers must run out."""


class Reply:
    """An answer as it travels."""

    __slots__ = ("__weakref__", "_packed")

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def take(self) -> Packed:
        """The frame and its tensors, once."""
        packed = self._packed
        if self is not NOTHING:
            self._packed = b"", []
        return packed


class Unfetched:
    """The replies of the last seconds, which are emptied when they are old."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._lock = threading.Lock()
        self._young: list[weakref.ref[Reply]] = []
        self._old: list[weakref.ref[Reply]] = []
        self._is_due = False

    def add(self, reply: Reply) -> None:
        """Empty this one, too, in a while."""
        with self._lock:
            self._young.append(weakref.ref(reply))
            if not self._is_due:
                self._is_due = True
                self._timers.after(KEPT_S, self._empty)

    def _empty(self) -> None:
        with self._lock:
            for found in self._old:
                if (reply := found()) is not None:
                    reply.take()
            self._old, self._young = self._young, []
            self._is_due = bool(self._old)
            if self._is_due:
                self._timers.after(KEPT_S, self._empty)


def reply_with(outcome: Any, endpoint: str, asker: int) -> Reply:
    """The reply that carries what an endpoint returned, or says why that cannot travel."""
    return _reply(outcome, endpoint, lambda: pack(Answer(outcome), lambda handle: handle.record_for(asker)))  # type: ignore[attr-defined]


def posted_reply(outcome: Any, endpoint: str) -> Reply:
    """The same for what was posted, where answers are small."""
    return _reply(outcome, endpoint, lambda: (pack_posted(outcome), []))


def _reply(outcome: Any, endpoint: str, packed: Callable[[], Packed]) -> Reply:
    if outcome is None:
        return NOTHING
    try:
        reply = Reply(packed())
    except Exception as error:
        reason = f"{own_name()} could not serve {endpoint!r}: {error}"
        return Reply(pack(Answer(Failure("ClusterError", reason, own_name())), no_handle))
    with contextlib.suppress(ClusterError):  # leaving: its agent will send nothing more
        here().unfetched.add(reply)
    return reply


def reply_later(outcome: Any, endpoint: str, asker: int) -> torch.futures.Future[Any]:
    """The future through which torch sends an answer. No thread waits for it."""
    reply: torch.futures.Future[Any] = torch.futures.Future()
    if isinstance(outcome, Future):
        device = own_name()

        def send_reply(done: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the agent is gone, and with it whoever asked
                reply.set_result(reply_with(outcome_of(done, device, endpoint), endpoint, asker))

        outcome.add_done_callback(send_reply)
    else:
        reply.set_result(reply_with(outcome, endpoint, asker))
    return reply


NOTHING_FRAME = pack_posted(None)
NOTHING = Reply((NOTHING_FRAME, []))
"""The answer of most endpoints."""
