"""One link session: what two gates carry between them, over one connection after the other.

It is *attached* to a connection or to none. Frames that are numbered are kept until they are acknowledged, and begin
again from what the other end has when it is attached to the next. Only a broken path is bridged: what ends at one end
ends at the other as soon as that hears of it. A link session that has no connection for too long is over, and so are
its streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from shardnet.errors import ClusterError
from shardnet.tunnel import frames
from shardnet.tunnel.attachment import Attachment
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.counts import Counts
from shardnet.tunnel.flow import Incoming, Outgoing, SharedCredit
from shardnet.tunnel.frames import BadFrame, Frame, Kind
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.scheduling import Turns
from shardnet.tunnel.sequence import ReceivedFrames, SentFrames
from shardnet.tunnel.stream import Stream
from shardnet.tunnel.vigil import Vigil

AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.Protocol)
CHUNK_BYTES = 2**14 - frames.HEAD.size
"""Of data in one frame, which then is one TLS record."""
WRITE_BYTES = 2**16
"""Of frames that are written together."""
ACK_BYTES = 2**17
ACK_S = 0.05
"""After so much, or so long, what has come is acknowledged where nothing is sent with which that could go."""
MOST_KEPT_FRAMES = 2**16


class LinkSession:
    """Made by a `Meeting`. All of it happens on one event loop."""

    def __init__(
        self, peer: str, is_dialler: bool, on_stream: Callable[[LinkSession, Stream], None], limits: Limits
    ) -> None:
        self.peer = peer
        """The name of the other gate's host."""
        self.counts = Counts()
        self.why_over = ""
        """Empty as long as it lasts."""
        self.why_detached = ""
        """What became of the last connection that it lost."""
        self.on_change: Callable[[LinkSession], None] = lambda session: None
        """Called when it was attached, detached, or is over."""
        self._on_stream = on_stream
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[str] = self._loop.create_future()
        self._detached = asyncio.Event()
        self._connection: Connection | None = None
        self._sent = SentFrames(limits.kept_bytes)
        self._received = ReceivedFrames()
        self._num_told = 0
        """How many frames were acknowledged."""
        self._untold_bytes = 0
        self._streams: dict[int, Stream] = {}
        self._came: dict[int, Stream] = {}
        """Those for which data has come that was not handed out yet."""
        self._turns = Turns(CHUNK_BYTES)
        self._shared_credit = SharedCredit(limits.shared_credit_bytes)
        self._last_opened, self._last_heard = (-1, 0) if is_dialler else (0, -1)
        """The streams' numbers: of who dials they are odd, and each is larger than those before."""
        self._attachment = Attachment(limits, self._loop.time())
        """Of the present connection, or of the last one."""
        self.vigil = Vigil(limits, lambda: bool(self._streams), self.detach)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_pumping = False

    @property
    def is_attached(self) -> bool:
        return self._connection is not None

    @property
    def num_received(self) -> int:
        """How many frames of the other end have arrived."""
        return self._received.num_received

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def open_stream(
        self, protocol_factory: Callable[[], AnyProtocol], destination: bytes
    ) -> tuple[Stream, AnyProtocol]:
        """Begin a stream to what the other gate knows under that destination. What is written waits for a connection.

        Raises:
            ClusterError: the link session is over, or has too many streams.
        """
        if self.why_over:
            raise ClusterError(f"the link to {self.peer} is over: {self.why_over}")
        if len(self._streams) >= 2 * self._limits.most_streams:
            raise ClusterError(f"there are {len(self._streams)} connections to {self.peer} already")
        self._last_opened += 2
        stream = self._new_stream(self._last_opened, destination)
        self._say(Kind.OPEN, stream.number, destination)
        protocol = protocol_factory()
        stream.begin(protocol)
        return stream, protocol

    def welcome(self, connection: Connection, num_received: int) -> None:
        """Attach it to a connection that the other end has opened, and tell it so."""
        if self._connection is not None:
            self._connection.forget()
        connection.write(frames.pack(Kind.WELCOME, number=self.num_received))
        self.attach(connection, num_received)

    def attach(self, connection: Connection, num_received: int) -> None:
        """Go on over this connection, whose other end has received so many frames."""
        if self._connection is not None:
            self._connection.forget()
        try:
            self.counts.sent_again_bytes += self._sent.resume(num_received)
        except BadFrame as error:
            self._connection = connection
            self.end(f"{self.peer} has lost count: {error}")
            return
        self.counts.num_connections += 1
        self._connection = connection
        self._detached.clear()
        self._num_told = self.num_received
        self._attachment = Attachment(self._limits, self._loop.time())
        connection.belong_to(self)
        self._stop_timer("limit")
        self.vigil.begin(connection, self._attachment)
        self.on_change(self)
        self._pump()

    def detach(self, reason: str) -> None:
        """Give the connection up, where there is one, and wait for another."""
        if self._connection is None:
            return
        self._connection.forget()
        self._connection = None
        self.why_detached = reason
        self._detached.set()
        self.vigil.lost()
        self._stop_timer("ack")
        overdue = f"nothing got through to {self.peer} for {self._limits.limit_s:g} s ({reason})"
        self._start_timer("limit", self._limits.limit_s, self.end, overdue)
        self.on_change(self)

    def end(self, reason: str) -> None:
        """Tell the other end that it is over, where it can be told, and end all streams. Safe to call twice."""
        if self._connection is not None and not self.why_over:
            self._connection.write(frames.pack_reason(Kind.GOODBYE, reason))
        self._end_here(reason)

    async def wait_detached(self) -> None:
        """Until it has no connection."""
        await self._detached.wait()

    async def wait_over(self) -> str:
        """Why it is over, as soon as it is."""
        return await asyncio.shield(self._over)

    def when_over(self, call: Callable[[], object]) -> None:
        """Have this called soon after it is over."""
        self._over.add_done_callback(lambda _: call())

    def frames_came(self, connection: Connection, came: list[Frame]) -> None:
        """From the other end.

        Raises:
            BadFrame: it does not keep to the rules.
        """
        self.vigil.heard()
        for frame in came:
            if self._connection is not connection:
                return
            if frame.kind in frames.NUMBERED:
                self._untold_bytes += len(frame.payload) + frames.HEAD.size
                if self._received.is_new(frame.number):
                    self._take_in(frame)
            else:
                self._hear(frame)
        self._hand_out()
        if self._num_told != self.num_received and "ack" not in self._timers:
            self._start_timer("ack", ACK_S, self._acknowledge)
        self._pump()

    def can_write(self, connection: Connection) -> None:
        self._pump()

    def connection_broke(self, connection: Connection, error: Exception | None) -> None:
        if connection is not self._connection:
            return
        if isinstance(error, BadFrame):
            self.end(f"{self.peer} does not speak as a gate does: {error}")
        else:
            self.detach(str(error) if error else "the connection was closed")

    def wake(self, stream: Stream) -> None:
        """For streams: there may be something to send."""
        if stream.outgoing.can_send or stream.is_end_due:
            self._turns.wake(stream.number)
            self._pump()

    def give_credit(self, stream: Stream, num_bytes: int) -> None:
        """For streams: the other end may send more."""
        self._add(frames.pack_credit(stream.number, self._sent.next_number, num_bytes))

    def reset(self, stream: Stream) -> None:
        """For streams: the other end is to forget it."""
        if not self.why_over:
            self._say(Kind.RESET, stream.number)

    def drop(self, stream: Stream) -> None:
        """For streams: it is over."""
        self._streams.pop(stream.number, None)
        self._turns.forget(stream.number)

    def _new_stream(self, number: int, destination: bytes) -> Stream:
        first_bytes = self._limits.first_credit_bytes
        incoming = Incoming(first_bytes, self._limits.most_credit_bytes, self._shared_credit)
        stream = Stream(self, number, destination, Outgoing(first_bytes), incoming)
        self._streams[number] = stream
        if len(self._streams) == 1:
            self.vigil.look_soon()
        return stream

    def _say(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        self._add(frames.pack(kind, stream, self._sent.next_number, payload))

    def _add(self, frame: bytes) -> None:
        """A numbered frame that waits for nobody's turn."""
        self._sent.add(frame)
        if self._sent.num_frames > MOST_KEPT_FRAMES:
            self.end(f"{self.peer} does not acknowledge what it gets")
        self._pump()

    def _pump(self) -> None:
        """Write what can go out now: what is owed to the other end, what waits in order, then whose turn it is."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while (connection := self._connection) is not None and connection.is_writable:
                batch = self._next_batch()
                if not batch:
                    break
                connection.write(b"".join(batch))  # be it given up by now: what is numbered goes out again
        finally:
            self._is_pumping = False

    def _next_batch(self) -> list[bytes]:
        attachment = self._attachment
        answer = attachment.answer()
        batch = [answer] if answer else []
        num_bytes = 0
        while num_bytes < WRITE_BYTES and (self._sent.num_waiting or self._take_turn()):
            frame = self._sent.take()
            batch.append(frame)
            num_bytes += len(frame)
            attachment.pacing.sent(len(frame))
            if attachment.pacing.is_question_due:
                batch.append(attachment.ask(self._loop.time()))
        if attachment.pacing.is_question_due:
            batch.append(attachment.ask(self._loop.time()))
        if (batch and self._num_told != self.num_received) or self._untold_bytes >= ACK_BYTES:
            batch.append(self._ack())
        return batch

    def _take_turn(self) -> bool:
        """Make a frame of what the stream sends whose turn it is, if any. Bulk waits while enough is under way or kept.

        Others do not: until there is room for bulk again, each of them has no more than a quantum.
        """
        number = self._turns.next(only_new=self._attachment.pacing.is_full or self._sent.is_full)
        if number is None:
            return False
        stream = self._streams[number]
        num_bytes, pieces = stream.outgoing.take(CHUNK_BYTES)
        if num_bytes:
            head = frames.HEAD.pack(Kind.DATA, 0, num_bytes, number, self._sent.next_number)
            self._sent.add(b"".join((head, *pieces)))
            self._turns.charge(number, num_bytes)
            self.counts.sent_bytes += num_bytes
            if not stream.outgoing.can_send and not stream.is_end_due:
                self._turns.sleep(number)
            stream.went_out()
        else:
            self._sent.add(frames.pack(Kind.END, number, self._sent.next_number))
            self._turns.sleep(number)
            stream.end_went_out()
        return True

    def _ack(self) -> bytes:
        self._num_told = self.num_received
        self._untold_bytes = 0
        return frames.pack(Kind.ACK, number=self.num_received)

    def _acknowledge(self) -> None:
        del self._timers["ack"]
        if self._num_told != self.num_received:
            self._untold_bytes = ACK_BYTES
            self._pump()

    def _take_in(self, frame: Frame) -> None:
        """A numbered frame, once and in order."""
        kind = frame.kind
        stream = self._streams.get(frame.stream)
        if kind is Kind.OPEN:
            self._open(frame)
        elif stream is None:
            if frame.stream > max(self._last_opened, self._last_heard):
                raise BadFrame(f"a frame is for stream {frame.stream}, which nobody has opened")
        elif kind is Kind.DATA:
            self.counts.received_bytes += len(frame.payload)
            stream.data_came(frame.payload)
            self._came[frame.stream] = stream
        elif kind is Kind.CREDIT:
            stream.outgoing.give(frames.credit_in(frame))
            self.wake(stream)
        elif kind is Kind.END:
            stream.end_came()
        else:
            self._hand_out()
            if not stream.is_over:  # whoever read the last of it may have ended it
                stream.finish(ConnectionResetError(f"{self.peer} closed the connection"))

    def _hand_out(self) -> None:
        came, self._came = self._came, {}
        for stream in came.values():
            stream.hand_out()

    def _open(self, frame: Frame) -> None:
        if frame.stream % 2 != self._last_heard % 2 or frame.stream <= self._last_heard:
            raise BadFrame(f"stream {frame.stream} cannot be opened after {self._last_heard}")
        self._last_heard = frame.stream
        if len(self._streams) >= 2 * self._limits.most_streams:
            self._say(Kind.RESET, frame.stream)
            return
        stream = self._new_stream(frame.stream, frame.payload)
        try:
            self._on_stream(self, stream)
        except Exception as error:
            self._loop.call_exception_handler({"message": "a stream found nobody", "exception": error})
            stream.abort()

    def _hear(self, frame: Frame) -> None:
        """A frame without a number."""
        if frame.kind is Kind.ACK:
            self._sent.acknowledge(frame.number)
        elif frame.kind is Kind.PING:
            self._attachment.question_came()
        elif frame.kind is Kind.PONG:
            self._attachment.answer_came(frame.number, self._loop.time())
        elif frame.kind is Kind.GOODBYE:
            self._hand_out()
            self._end_here(frames.reason_in(frame) or f"{self.peer} ended it")
        else:
            raise BadFrame(f"a frame of the kind {frame.kind.name} came in the middle of a link session")

    def _end_here(self, reason: str) -> None:
        if self.why_over:
            return
        self.why_over = reason
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.vigil.end()
        for timer in tuple(self._timers):
            self._stop_timer(timer)
        for stream in tuple(self._streams.values()):
            stream.finish(ConnectionAbortedError(f"the link to {self.peer} is over: {reason}"))
        self._over.set_result(reason)
        self.on_change(self)

    def _start_timer(self, name: str, after_s: float, act: Callable[..., None], *args: object) -> None:
        self._stop_timer(name)
        self._timers[name] = self._loop.call_later(after_s, act, *args)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
