"""A member's end of its connection to the door: asks questions, hears the news. A thread of its own reads.

The connection is the member's presence. When it closes from the other side, the door is gone: questions fail at once,
and what members say to each other goes on.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import socket
import struct
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from shardnet.errors import ClusterError
from shardnet.transport.door import messages
from shardnet.transport.door.knocking import knock, read_exactly
from shardnet.transport.door.messages import (
    MOST_TOLD_BYTES,
    Done,
    Draw,
    Enlist,
    Enter,
    Heard,
    Leave,
    News,
    Ping,
    Pong,
    Refused,
    Strike,
    StruckOff,
    Sync,
)
from shardnet.transport.failure import Failure
from shardnet.transport.outcomes import settle
from shardnet.transport.wire.values import Undecodable

ANSWER_S = 5.0
"""How long one answer of the door may take. It is not asked while tokens are made."""
JOIN_S = 10.0
"""The same for a join, which waits for silent members and for a silent holder of the name."""
GOODBYE_S = 0.5


class Membership:
    """This process's connection to the door of a cluster."""

    def __init__(self, endpoint: str, *, timeout_s: float) -> None:
        """Knock, and be let in.

        Raises:
            UsageError, JoinFailed: as `knock`.
        """
        self.endpoint = endpoint
        self._on_news: Callable[[News], None] = lambda news: None
        self._on_struck: Callable[[], None] = lambda: None
        self._answers: dict[int, Future[int]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._why_over: str | None = None
        self._socket = knock(endpoint, timeout_s)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(ANSWER_S), 0))
        self._thread = threading.Thread(target=self._run, name="shardnet-membership", daemon=True)
        self._thread.start()
        _open.add(self)

    def enter(self) -> int:
        """An id that nobody else gets in this cluster.

        Raises:
            JoinFailed: there is none left.
            ClusterError: the door does not answer. So for all questions.
        """
        return self._ask(Enter)

    def enlist(self, name: str, address: str, on_news: Callable[[News], None], on_struck: Callable[[], None]) -> None:
        """Be a member. When this returns, all who are there have been told of, and all who are not silent know.

        Args:
            on_news: called on the reading thread with each change. It must not ask the door.
            on_struck: called likewise when the others have struck this member off.

        Raises:
            JoinFailed: another one has that name.
        """
        self._on_news, self._on_struck = on_news, on_struck
        self._ask(Enlist, name, address, timeout_s=JOIN_S)

    def strike(self, member_id: int) -> None:
        """Strike a member off. Nothing where it is gone already."""
        self._ask(Strike, member_id)

    def sync(self) -> None:
        """Hear all the news that there are."""
        self._ask(Sync)

    def draw(self, counter: str, count: int) -> int:
        """See `Transport.draw`."""
        return self._ask(Draw, counter, count)

    def leave(self) -> None:
        """Tell the others that this member leaves."""
        self._ask(Leave, timeout_s=GOODBYE_S)

    def close(self) -> None:
        """End the connection. Safe to call twice."""
        self._end("this device has left")
        if self._thread is not threading.current_thread():
            self._thread.join()

    def let_go(self) -> None:
        """In a forked child: without its copy of the connection, or this member would seem to live on in it."""
        self._socket.close()

    def _ask(self, kind: Callable[..., Any], *fields: Any, timeout_s: float = ANSWER_S) -> int:
        answer: Future[int] = Future()
        number = next(self._numbers)
        self._answers[number] = answer
        try:
            self._say(kind(number, *fields))
            return answer.result(timeout_s)
        except concurrent.futures.TimeoutError:
            reason = f"no answer within {timeout_s:g} s"
        except OSError as error:
            reason = self._why_over or error.strerror or str(error)
        finally:
            self._answers.pop(number, None)
        raise self._silent(reason)

    def _silent(self, reason: str) -> ClusterError:
        return ClusterError(f"The door at {self.endpoint} does not answer: {reason}. Is the coordinator running?")

    def _say(self, message: Any) -> None:
        with self._lock:
            if self._why_over is not None:
                raise OSError(self._why_over)
            try:
                self._socket.sendall(messages.pack(message))
            except OSError as error:  # half of it may have left: nothing can follow
                self._why_over = error.strerror or str(error)
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
                raise

    def _run(self) -> None:
        reason = "its process has ended"
        try:
            while True:
                head = read_exactly(self._socket, 4)
                content = read_exactly(self._socket, messages.length_in(head, MOST_TOLD_BYTES))
                self._take(messages.unpack(content))
        except Undecodable as error:
            reason = str(error)
        except (OSError, EOFError):
            pass
        finally:
            self._end(reason)

    def _take(self, told: Any) -> None:
        kind = type(told)
        if kind is Done:
            self._settle(told.number, told.value)
        elif kind is Refused:
            self._settle(told.number, Failure(told.kind, told.message, ""))
        elif kind is News:
            self._on_news(told)
            self._reply(Heard(told.version))
        elif kind is Ping:
            self._reply(Pong())
        elif kind is StruckOff:
            self._on_struck()
        else:
            raise Undecodable("this is for a member to say")

    def _reply(self, message: Any) -> None:
        with suppress(OSError):  # the door has closed; what it said last is still to be read
            self._say(message)

    def _settle(self, number: int, outcome: Any) -> None:
        answer = self._answers.get(number)
        if answer is not None:
            settle(answer, outcome)

    def _end(self, reason: str) -> None:
        """Nothing goes over this connection any more."""
        with self._lock:
            self._why_over = self._why_over or reason
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if self._thread is threading.current_thread():
                self._socket.close()
        for answer in list(self._answers.values()):
            settle(answer, self._silent(self._why_over))


_open: weakref.WeakSet[Membership] = weakref.WeakSet()


def _let_go() -> None:
    for membership in list(_open):
        membership.let_go()


os.register_at_fork(after_in_child=_let_go)
