"""A member's end of its connection to the door: asks questions, hears the news. A thread of its own reads.

The connection is the member's presence. When it closes from the other side, the door is gone: questions fail at once,
and what members say to each other goes on. The member looks for the door again where it was, for as long as it was told
to, and goes on under its id where the door is opened again and knows it.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Literal

from shardnet.errors import ClusterError, Evicted, OtherVersion, ShardnetError
from shardnet.transport.door.connection import HAS_ENDED, DoorConnection
from shardnet.transport.door.knocking import knock, knock_again
from shardnet.transport.door.messages import (
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
    Return,
    Strike,
    StruckOff,
    Sync,
)
from shardnet.transport.failure import Failure
from shardnet.transport.outcomes import settle
from shardnet.transport.wire.values import Undecodable

_log = logging.getLogger(__name__)
DoorEvent = Literal["gone", "back", "given up"]
"""What became of the door, as a member sees it. Who does not look for it gives it up at once."""
OnDoor = Callable[[DoorEvent], object]

ANSWER_S = 5.0
"""How long one answer of the door may take. It is not asked while tokens are made."""
JOIN_S = 10.0
"""The same for a join, which waits for silent members and for a silent holder of the name."""
GOODBYE_S = 0.5
SECRET_BYTES = 16
LOOK_S = 5.0
"""How long the door may take to let a member in again, once it is there."""
LOOK_LEAST_S, LOOK_MOST_S = 0.05, 1.0
"""How long a member waits between two looks for the door: a twentieth of how long it has been gone, within these."""


class DoorGone(ClusterError):
    """The door was closed, or its process has ended, before it had answered. It may have done what it was asked."""


class Membership:
    """This process's connection to the door of a cluster."""

    def __init__(self, endpoint: str, *, timeout_s: float, look_again_s: float = 0.0) -> None:
        """Knock, and be let in.

        Args:
            look_again_s: for how long a door that is gone is looked for.

        Raises:
            UsageError, JoinFailed: as `knock`.
        """
        self.endpoint = endpoint
        self._look_again_s = look_again_s
        self._on_news: Callable[[News], None] = lambda news: None
        self._on_struck: Callable[[], None] = lambda: None
        self._on_door: OnDoor = lambda event: None
        self._answers: dict[int, Future[int]] = {}
        self._numbers = itertools.count(1)
        self._id = 0
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._version = 0
        """Of the roster, as it was heard."""
        self._may_return = False
        """It is on the roster, as far as is known here."""
        self._gone_since_s: float | None = None
        """Since when the door is gone; None where it is there."""
        self._other_version = ""
        """What was said of a door that was opened again by another version."""
        self._is_closed = threading.Event()
        self._lock = threading.Lock()
        """Of what `close` and the reading thread exchange: the connection, and whether there may be another one."""
        self._looking: socket.socket | None = None
        self._connection = DoorConnection(knock(endpoint, timeout_s))
        self._thread = threading.Thread(target=self._run, name="shardnet-membership", daemon=True)
        self._thread.start()
        _open.add(self)

    def enter(self) -> int:
        """An id that nobody else gets in this cluster.

        Raises:
            JoinFailed: there is none left.
            DoorGone: the door is not there. So for all questions.
            ClusterError: it does not answer in time. So for all questions.
        """
        self._id = self._ask(Enter)
        return self._id

    def enlist(
        self,
        name: str,
        address: str,
        on_news: Callable[[News], None],
        on_struck: Callable[[], None],
        on_door: OnDoor = lambda event: None,
    ) -> None:
        """Be a member. When this returns, all who are there have been told of, and all who are not silent know.

        Args:
            on_news: called on the reading thread with each change. It must not ask the door.
            on_struck: called likewise when the others have struck this member off.
            on_door: called likewise when the door is gone, is there again, or is not looked for any more.

        Raises:
            JoinFailed: another one has that name.
        """
        self._on_news, self._on_struck, self._on_door = on_news, on_struck, on_door
        self._may_return = True
        try:
            self._ask(Enlist, name, address, self._secret, timeout_s=JOIN_S)
        except BaseException:
            self._may_return = False
            raise

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
        self._may_return = False
        self._ask(Leave, timeout_s=GOODBYE_S)

    def close(self) -> None:
        """End the connection, and look for no other one. Safe to call twice."""
        with self._lock:
            self._is_closed.set()
            self._connection.end("this device has left")
            if self._looking is not None:
                with suppress(OSError):
                    self._looking.shutdown(socket.SHUT_RDWR)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def let_go(self) -> None:
        """In a forked child: without its copy of the connection, or this member would seem to live on in it."""
        self._connection.close()
        if self._looking is not None:
            self._looking.close()

    def _ask(self, kind: Callable[..., Any], *fields: Any, timeout_s: float = ANSWER_S) -> int:
        answer: Future[int] = Future()
        number = next(self._numbers)
        connection = self._connection
        self._answers[number] = answer
        try:
            if self._gone_since_s is not None:
                raise OSError(connection.why_over)
            connection.say(kind(number, *fields))
            return answer.result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise ClusterError(self._silence(f"no answer within {timeout_s:g} s")) from None
        except OSError as error:
            raise DoorGone(self._silence(connection.why_over or error.strerror or str(error))) from None
        finally:
            self._answers.pop(number, None)

    def _silence(self, reason: str) -> str:
        return f"The door at {self.endpoint} does not answer: {reason}. Is the coordinator running?"

    # ---- the reading thread ----

    def _run(self) -> None:
        is_over = False
        while not is_over:
            reason = self._read_on()
            self._end_connection(reason)
            is_over = not self._find_door_again()

    def _read_on(self) -> str:
        """Take what the door says until the connection is over; returns why."""
        try:
            while True:
                self._take(self._connection.read())
        except Undecodable as error:
            return str(error)
        except (OSError, EOFError):
            return HAS_ENDED

    def _take(self, told: Any) -> None:
        kind = type(told)
        if kind is Done:
            self._settle(told.number, told.value)
        elif kind is Refused:
            self._settle(told.number, Failure(told.kind, told.message, ""))
        elif kind is News:
            self._on_news(told)
            self._version = told.version
            self._reply(Heard(told.version))
        elif kind is Ping:
            self._reply(Pong())
        elif kind is StruckOff:
            self._be_struck_off()
        else:
            raise Undecodable("this is for a member to say")

    def _reply(self, message: Any) -> None:
        with suppress(OSError):  # the door has closed; what it said last is still to be read
            self._connection.say(message)

    def _settle(self, number: int, outcome: Any) -> None:
        answer = self._answers.get(number)
        if answer is not None:
            settle(answer, outcome)

    def _be_struck_off(self) -> None:
        self._may_return = False
        self._on_struck()

    def _end_connection(self, reason: str) -> None:
        """Nothing goes over this connection any more."""
        self._connection.end(reason)
        self._connection.close()
        for answer in list(self._answers.values()):
            settle(answer, DoorGone(self._silence(self._connection.why_over)))

    def _find_door_again(self) -> bool:
        """Be connected again, and have said who this is. False where there is nothing to go on with."""
        if self._is_closed.is_set() or not self._may_return:
            return False
        if self._gone_since_s is None:  # or this member was not back yet
            self._gone_since_s = time.monotonic()
            self._on_door("gone")
        connection = self._look_until(self._gone_since_s + self._look_again_s)
        if connection is None:
            if not self._is_closed.is_set():
                self._on_door("given up")
            return False
        return self._say_who_this_is(connection)

    def _look_until(self, deadline_s: float) -> DoorConnection | None:
        """A new connection to the door. None where none is wanted any more."""
        while (left_s := deadline_s - time.monotonic()) > 0:
            gone_s = self._look_again_s - left_s
            if self._is_closed.wait(min(LOOK_MOST_S, max(LOOK_LEAST_S, gone_s / 20))):
                return None
            try:
                return DoorConnection(knock_again(self.endpoint, LOOK_S, self._note_looking))
            except OtherVersion as error:  # it may be replaced again
                if str(error) != self._other_version:
                    self._other_version = str(error)
                    _log.warning("%s", error)
            except (OSError, EOFError, ShardnetError):  # also where it is another's by now
                continue
        return None

    def _note_looking(self, connection: socket.socket) -> None:
        with self._lock:
            if self._is_closed.is_set():
                raise EOFError("this device has left")
            self._looking = connection

    def _say_who_this_is(self, connection: DoorConnection) -> bool:
        with self._lock:
            self._looking = None
            if self._is_closed.is_set():
                connection.close()
                return False
            self._connection = connection
        answer: Future[int] = Future()
        number = next(self._numbers)
        self._answers[number] = answer
        answer.add_done_callback(lambda answered: self._be_back(number, answered))
        self._reply(Return(number, self._id, self._secret, self._version))
        return True

    def _be_back(self, number: int, answered: Future[int]) -> None:
        """The door has said whether this is a member still, or is gone again."""
        self._answers.pop(number, None)
        error = answered.exception()
        if error is None:
            self._gone_since_s = None
            self._on_door("back")
        elif isinstance(error, Evicted):
            self._be_struck_off()
        else:
            self._connection.end(str(error))


_open: weakref.WeakSet[Membership] = weakref.WeakSet()


def _let_go() -> None:
    for membership in list(_open):
        membership.let_go()


os.register_at_fork(after_in_child=_let_go)
