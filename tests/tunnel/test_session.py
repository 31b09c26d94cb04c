"""Link sessions over real connections: what streams carry arrives as it was, whatever becomes of the connections."""

from __future__ import annotations

import asyncio
import math
import random
import time
from pathlib import Path

import pytest
from trusted import Home
from two_gates import HASTY, Gates, Tls, run, two_gates

from shardnet.errors import ClusterError
from shardnet.trust.contexts import client_context, server_context, server_mark
from shardnet.trust.names import COORDINATOR
from shardnet.tunnel import forward, frames
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.dialling import Pauses, dial_again
from shardnet.tunnel.frames import Frame, Kind
from shardnet.tunnel.greeting import Greeting, LinkRefused, draw_gate, draw_identity, pack_greeting
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.meeting import MOST_OF_ONE, MOST_SESSIONS
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream


class Collector(asyncio.Protocol):
    """Notes what comes over a stream."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_ended = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.is_ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Echo(asyncio.Protocol):
    """Sends back what comes, as fast as it is taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()


def echo(stream: Stream) -> None:
    stream.begin(Echo())


async def talk(session: LinkSession, number: int, data: bytes) -> None:
    """Send it all, and hear it again."""
    reader, writer = forward.open_reader_writer(session, b"echo %d" % number)

    async def send() -> None:
        for at in range(0, len(data), 50_000):
            writer.write(data[at : at + 50_000])
            await writer.drain()
        writer.write_eof()

    sending = asyncio.ensure_future(send())
    assert await reader.read() == data
    await sending
    writer.close()


async def all_over(gates: Gates) -> None:
    """Until no streams are left at either end."""
    while any(session.num_streams for session in (*gates.near.sessions, *gates.far.sessions)):
        await asyncio.sleep(0.001)


def test_streams_carry_both_ways_and_leave_nothing_behind() -> None:
    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()
            await asyncio.gather(*(talk(session, n, random.Random(n).randbytes(n * 3000)) for n in range(60)))
            (accepted,) = gates.accepted
            back = [talk(accepted, n, random.Random(n).randbytes(100_000)) for n in range(3)]
            await asyncio.gather(*back)
            await all_over(gates)
            assert (session.peer, accepted.peer) == ("far", "near")
            assert session.counts.num_connections == 1

    run(main())


@pytest.mark.parametrize("seed", range(6))
def test_cuts_at_any_byte_lose_and_repeat_nothing(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(seed)
        async with two_gates(on_stream=echo) as gates:
            gates.way.cut_at_bytes = sorted(chance.randrange(200, 6_000_000) for _ in range(25))
            session = await gates.dial()
            sizes = [chance.choice([10, 1000, 700_000]) for _ in range(12)]
            talks = [talk(session, n, chance.randbytes(size)) for n, size in enumerate(sizes)]
            await asyncio.gather(*talks)
            await all_over(gates)
            assert session.counts.num_connections >= gates.way.num_cuts > 0
            assert gates.accepted == [*gates.far.sessions]

    run(main())


def test_cuts_under_tls(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    phone = home.member(tmp_path / "phone", "phone")
    tls = Tls(server_context(home.identity), client_context(phone), server_mark(phone, COORDINATOR))

    async def main() -> None:
        chance = random.Random(7)
        async with two_gates(on_stream=echo, tls=tls) as gates:
            gates.way.cut_at_bytes = sorted(chance.randrange(200, 6_000_000) for _ in range(12))
            session = await gates.dial()
            await asyncio.gather(*(talk(session, n, chance.randbytes(600_000)) for n in range(6)))
            await all_over(gates)
            assert gates.way.num_cuts > 0

    run(main())


def test_a_blackout_is_noticed_and_bridged_as_soon_as_it_ends() -> None:
    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()
            reader, writer = forward.open_reader_writer(session, b"echo")
            for number in range(2):
                gates.way.hold()
                writer.write(b"said in the dark %d" % number)
                await session.wait_detached()
                assert not session.is_attached
                writer.write(b", and this, too")
                gates.way.release()
                assert await reader.readexactly(33) == b"said in the dark %d, and this, too" % number
            assert session.counts.num_connections == 3

    run(main())


def test_a_short_blackout_is_waited_for() -> None:
    async def main() -> None:
        async with two_gates(Limits(ask_after_s=0.05, answer_s=60.0), on_stream=echo) as gates:
            session = await gates.dial()
            reader, writer = forward.open_reader_writer(session, b"echo")
            gates.way.hold()
            writer.write(b"x")
            await asyncio.sleep(0.3)
            gates.way.resume()
            assert await reader.readexactly(1) == b"x"
            assert session.counts.num_connections == 1

    run(main())


def test_what_is_cut_off_for_too_long_is_over_at_both_ends() -> None:
    async def main() -> None:
        streams: list[Stream] = []
        async with two_gates(Limits(ask_after_s=0.1, answer_s=0.1, limit_s=0.3), streams.append) as gates:
            session = await gates.dial()
            stream, near = session.open_stream(Collector, b"there")
            stream.write(b"x")
            while not streams:
                await asyncio.sleep(0.001)
            far = Collector()
            streams[0].begin(far)
            gates.way.hold()
            assert "nothing got through to far for 0.3 s" in await session.wait_over()
            assert "nothing got through to near for 0.3 s" in await gates.accepted[0].wait_over()
            for collector in (near, far):
                assert isinstance(await collector.lost, ConnectionAbortedError)
            assert far.data == b"x" and not far.is_ended
            with pytest.raises(ClusterError, match="the link to far is over: nothing got through"):
                session.open_stream(Collector, b"there")
            assert gates.near.sessions == gates.far.sessions == ()

    run(main())


def test_an_end_in_order_is_told_at_once() -> None:
    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()
            reader, writer = forward.open_reader_writer(session, b"echo")
            writer.write(b"x")
            await reader.readexactly(1)
            gates.accepted[0].end("it was revoked")
            assert await session.wait_over() == "it was revoked"
            with pytest.raises(ConnectionAbortedError, match="the link to far is over: it was revoked"):
                await reader.read()

    run(main())


def test_a_reader_that_reads_nothing_stops_its_writer_and_nobody_else() -> None:
    async def main() -> None:
        streams: list[Stream] = []

        def on_stream(stream: Stream) -> None:
            if stream.destination == b"slow":
                streams.append(stream)
            else:
                echo(stream)

        async with two_gates(on_stream=on_stream) as gates:
            session = await gates.dial()
            _, writer = forward.open_reader_writer(session, b"slow")
            data = random.Random(0).randbytes(5_000_000)

            async def send() -> None:
                for at in range(0, len(data), 10_000):
                    writer.write(data[at : at + 10_000])
                    await writer.drain()
                writer.close()

            sending = asyncio.ensure_future(send())
            await talk(session, 0, data)
            assert not sending.done() and gates.accepted[0].counts.received_bytes < len(data) + 100_000
            collector = Collector()
            streams[0].begin(collector)
            assert await collector.lost is None
            assert collector.data == data and collector.is_ended
            await sending

    run(main())


def test_a_message_overtakes_bulk_that_waits() -> None:
    """No more than what is on its way already comes before it."""

    async def main() -> None:
        bulk = Collector()
        before: list[int] = []

        class Urgent(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                before.append(len(bulk.data))

        async with two_gates(
            Limits(), lambda each: each.begin(bulk if each.destination == b"bulk" else Urgent())
        ) as gates:
            session = await gates.dial()
            _, writer = forward.open_reader_writer(session, b"bulk")
            _, urgent = forward.open_reader_writer(session, b"urgent")
            data = bytes(64 * 2**20)
            writer.write(data)
            while len(bulk.data) < 10 * 2**20:
                await asyncio.sleep(0.001)
            at = len(bulk.data)
            urgent.write(b"a token")
            await writer.drain()
            while not before:
                await asyncio.sleep(0.001)
            assert before[0] - at < 8 * 2**20

    run(main())


def test_a_message_goes_out_though_no_more_bulk_is_kept() -> None:
    """The other end acknowledges nothing."""

    async def main() -> None:
        async with two_gates(Limits(kept_bytes=2**15)) as gates:
            reader, writer = await asyncio.open_connection("127.0.0.1", gates.way.target)
            greeting = pack_greeting(Greeting(draw_identity(), 1, True, draw_gate()))
            writer.write(frames.pack(Kind.GREETING, payload=greeting))
            await reader.readexactly(frames.HEAD.size)
            session = gates.accepted[0]
            _, bulk = forward.open_reader_writer(session, b"bulk")
            bulk.write(bytes(60_000))
            _, urgent = forward.open_reader_writer(session, b"urgent")
            urgent.write(b"a token")
            came = b""
            while b"a token" not in came:
                came += await reader.read(2**16)
            assert came.count(0) < 60_000
            writer.close()

    run(main())


def test_a_reset_is_told_and_what_comes_later_is_dropped() -> None:
    async def main() -> None:
        streams: list[Stream] = []
        async with two_gates(on_stream=streams.append) as gates:
            session = await gates.dial()
            stream, collector = session.open_stream(Collector, b"there")
            stream.write(b"x" * 60_000)
            while not streams:
                await asyncio.sleep(0.001)
            streams[0].abort()
            assert isinstance(await collector.lost, ConnectionResetError)
            stream.write(b"more")
            await all_over(gates)
            await gates_still_work(gates, session)

    async def gates_still_work(gates: Gates, session: LinkSession) -> None:
        stream, collector = session.open_stream(Collector, b"there")
        stream.abort()
        assert await collector.lost is None

    run(main())


def test_a_protocol_that_fails_ends_its_own_stream() -> None:
    class Failing(Collector):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("ours")

    async def main() -> None:
        said: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        failing = Failing()
        async with two_gates(on_stream=lambda each: each.begin(failing)) as gates:
            session = await gates.dial()
            stream, collector = session.open_stream(Collector, b"there")
            stream.write(b"x")
            assert isinstance(await collector.lost, ConnectionResetError)
            assert await failing.lost is None
            assert [str(each["exception"]) for each in said] == ["ours"]
            assert session.counts.num_connections == 1

    run(main())


def test_a_stream_that_nobody_takes_for_a_fault_of_ours_is_reset() -> None:
    """It once broke the connection, and then hung."""

    def on_stream(stream: Stream) -> None:
        if stream.destination == b"there":
            raise RuntimeError("ours")
        echo(stream)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
        async with two_gates(on_stream=on_stream) as gates:
            session = await gates.dial()
            _, collector = session.open_stream(Collector, b"there")
            assert isinstance(await collector.lost, ConnectionResetError)
            await talk(session, 0, b"x" * 1000)
            assert session.counts.num_connections == 1

    run(main())


def test_nobody_else_takes_a_link_session_over() -> None:
    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()
            identity = gates.far._accepted.copy().popitem()[1].greeting.identity
            other = draw_identity()
            for peer, hostile, why in (
                ("near", Greeting(identity._replace(secret=other.secret), 9, False, draw_gate()), "somebody else's"),
                ("another", Greeting(identity, 9, False, draw_gate()), "somebody else's"),
                ("near", Greeting(identity, 1, False, draw_gate()), "comes after a later one"),
                ("near", Greeting(other, 1, False, draw_gate()), "this link session is over"),
            ):
                gates.peer = peer
                assert why in (await answer_to(gates, pack_greeting(hostile))).decode()
            gates.peer = "near"
            await talk(session, 0, b"x" * 1000)
            assert session.counts.num_connections == 1

    run(main())


async def answer_to(gates: Gates, greeting: bytes, kind: Kind = Kind.GREETING) -> bytes:
    """What the far gate says to a connection that begins so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gates.way.target)
    writer.write(frames.pack(kind, payload=greeting))
    said = await reader.read()
    writer.close()
    return said


def test_whoever_does_not_greet_is_refused() -> None:
    async def main() -> None:
        async with two_gates(Limits(greet_s=0.2)) as gates:
            assert b"begins with a frame of the kind PING" in await answer_to(gates, b"", Kind.PING)
            assert b"has 3 bytes" in await answer_to(gates, b"\0\1x")
            reader, writer = await asyncio.open_connection("127.0.0.1", gates.way.target)
            assert await reader.read() == b""
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", gates.way.target)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            assert gates.accepted == []

    run(main())


OPENED = frames.pack(Kind.OPEN, 1, 1, b"x")
HOSTILE = {
    "data on no stream": frames.pack(Kind.DATA, 1, 1, b"x"),
    "a stream of the other end's numbers": frames.pack(Kind.OPEN, 2, 1, b"x"),
    "a stream twice": OPENED + frames.pack(Kind.OPEN, 1, 2, b"x"),
    "a gap": frames.pack(Kind.OPEN, 1, 2, b"x"),
    "more than the credit": OPENED + b"".join(frames.pack(Kind.DATA, 1, 2 + n, b"x" * 50_000) for n in range(2)),
    "data after the end": OPENED + frames.pack(Kind.END, 1, 2) + frames.pack(Kind.DATA, 1, 3, b"x"),
    "an acknowledgement of nothing": frames.pack(Kind.ACK, number=1),
    "a welcome": frames.pack(Kind.WELCOME),
    "no frame": b"\xff" * 100,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_member_that_breaks_the_rules_loses_the_link_session_and_nothing_else_happens(hostile: bytes) -> None:
    def on_stream(stream: Stream) -> None:
        if stream.destination != b"x":
            echo(stream)

    async def main() -> None:
        async with two_gates(on_stream=on_stream) as gates:
            session = await gates.dial()
            gates.peer = "hostile"
            reader, writer = await asyncio.open_connection("127.0.0.1", gates.way.target)
            greeting = pack_greeting(Greeting(draw_identity(), 1, True, draw_gate()))
            writer.write(frames.pack(Kind.GREETING, payload=greeting))
            await reader.readexactly(frames.HEAD.size)
            writer.write(hostile)
            await reader.read()
            assert "hostile does not speak as a gate does" in await gates.accepted[1].wait_over()
            writer.close()
            await talk(session, 0, b"x" * 1000)

    run(main())


def test_one_host_takes_not_all_the_room_of_a_gate() -> None:
    """It could hold all files that the gate may open, and then nobody could even shut it out."""

    async def main() -> None:
        async with two_gates(Limits(greet_s=60.0), on_stream=echo) as gates:
            session = await gates.dial()
            gates.peer = "hostile"
            gate, writers = draw_gate(), []
            for _ in range(MOST_SESSIONS + 1):
                reader, writer = await asyncio.open_connection("127.0.0.1", gates.way.target)
                writer.write(
                    frames.pack(Kind.GREETING, payload=pack_greeting(Greeting(draw_identity(), 1, True, gate)))
                )
                said = await reader.readexactly(frames.HEAD.size)
                writers.append(writer)
            assert said[0] == Kind.REFUSED and len(gates.far.sessions) == MOST_SESSIONS + 1
            silent = [await asyncio.open_connection("127.0.0.1", gates.way.target) for _ in range(MOST_OF_ONE + 1)]
            assert await silent[0][0].read() == b""
            for writer in (*writers, *(writer for _, writer in silent)):
                writer.transport.abort()
            await talk(session, 0, b"x" * 1000)

    run(main())


def test_a_connection_that_makes_room_for_others_of_its_host_ends_no_link_session() -> None:
    """Those that had waited for the network came at once when it was back, and the first of them was refused."""

    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            crowd: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

            async def connect() -> Connection:
                connection = await gates.connect()
                if not crowd:
                    while not (arrived := tuple(gates.far._arrivals)):
                        await asyncio.sleep(0.001)
                    port = gates.way.target
                    crowd.extend([await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_OF_ONE)])
                    while arrived[0] in tuple(gates.far._arrivals):
                        await asyncio.sleep(0.001)
                return connection

            session = await gates.near.dial(connect, "far")
            for _, writer in crowd:
                writer.transport.abort()
            await talk(session, 0, b"x" * 1000)
            assert session.counts.num_connections == 1

    run(main())


def test_link_sessions_of_a_gate_that_was_started_again_are_over() -> None:
    async def main() -> None:
        async with two_gates() as gates:
            await gates.dial()
            again = Gates(HASTY, lambda stream: None)
            await again.near.dial(gates.connect, "far")
            assert await gates.accepted[0].wait_over() == "the gate of near was started again"
            assert len(gates.far.sessions) == 1
            again.near.end("the test is over")

    run(main())


def test_a_link_session_that_the_other_gate_does_not_know_is_over_at_once() -> None:
    async def main() -> None:
        async with two_gates() as gates:
            session = await gates.dial()
            gates.far._accepted.clear()  # as after a start of that gate
            gates.way.cut()
            assert await session.wait_over() == "this link session is over"

    run(main())


def test_who_dials_gives_up_where_it_is_of_no_use() -> None:
    async def main() -> None:
        async with two_gates() as gates:
            session = await gates.dial()

            async def refuse() -> None:
                raise LinkRefused("its certificate is another one's")

            with pytest.raises(LinkRefused, match="another one's"):
                await gates.near.dial(refuse, "far")  # type: ignore[arg-type]
            assert gates.near.sessions == (session,)

    run(main())


def test_connections_that_hang_are_not_waited_for() -> None:
    async def main() -> None:
        async with two_gates() as gates:
            num_asked = 0

            async def connect() -> object:
                nonlocal num_asked
                num_asked += 1
                if num_asked < 4:
                    await asyncio.Event().wait()
                if num_asked < 6:
                    raise ConnectionRefusedError
                return await gates.connect()

            connection = await dial_again(connect, Pauses(0.01, 0.01))  # type: ignore[arg-type]
            assert num_asked == 6
            connection.abort()

    run(main())


def test_a_connection_that_does_not_answer_is_left_for_one_that_gets_through() -> None:
    """Long before it is given up."""

    async def main() -> None:
        async with two_gates(Limits(ask_after_s=0.1, doubt_s=0.1, answer_s=100.0), on_stream=echo) as gates:
            session = await gates.dial()
            reader, writer = forward.open_reader_writer(session, b"echo")
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            for number in range(3):
                gates.way.hold_those_there()
                writer.write(b"held %d" % number)
                assert await reader.readexactly(6) == b"held %d" % number
            assert session.counts.num_connections == 4

    run(main())


def test_a_network_that_has_changed_is_tried_at_once() -> None:
    """Both what hangs and what is being dialled."""

    async def main() -> None:
        async with two_gates(Limits(ask_after_s=100.0, doubt_s=0.1, answer_s=100.0), on_stream=echo) as gates:
            session = await gates.dial()
            reader, writer = forward.open_reader_writer(session, b"echo")
            gates.way.hold_those_there()
            writer.write(b"held")
            gates.near.network_changed(["127.0.0.1"])
            assert await reader.readexactly(4) == b"held"
            assert session.counts.num_connections == 2
            pauses = Pauses(100.0, 100.0)
            is_asked = asyncio.Event()

            async def connect() -> object:
                if not is_asked.is_set():
                    is_asked.set()
                    raise ConnectionRefusedError
                return await gates.connect()

            dialling = asyncio.ensure_future(dial_again(connect, pauses))  # type: ignore[arg-type]
            await is_asked.wait()
            await asyncio.sleep(0)
            pauses.hurry()
            (await dialling).abort()

    run(main())


def test_connections_of_a_network_that_was_left_are_left() -> None:
    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()
            assert session._connection is not None
            for address, is_from in (("192.0.2.1", True), ("192.0.2.1%wlan0", True), ("192.0.2.9", False)):
                transport = session._connection._transport
                session._connection._transport = FromElsewhere(address)  # type: ignore[assignment]
                assert session._connection.is_from({"192.0.2.1"}) is is_from
                session._connection._transport = transport
            session.vigil.leave_unless_at([])
            assert session.is_attached  # nothing is known to be over for the loopback

    run(main())


def test_a_connection_ends_with_the_certificate_that_it_began_with() -> None:
    """The link session goes on over the next one, for which another certificate was shown."""

    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            gates.until_s = time.time() - 1.0
            session = await gates.dial()
            gates.until_s = math.inf
            await session.wait_detached()
            await talk(session, 0, b"x" * 1000)
            assert gates.accepted[0].why_detached == "the certificate at its other end has expired"
            assert session.counts.num_connections == 2

    run(main())


class FromElsewhere:
    """A transport whose end here has an address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str) -> object:
        return (self._address, 1) if name == "sockname" else None


def test_a_stream_that_its_reader_ends_as_a_reset_comes_hears_of_its_end_once() -> None:
    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()
            num_ends = 0

            class Leaving(asyncio.Protocol):
                def data_received(self, data: bytes) -> None:
                    stream.abort()

                def connection_lost(self, exc: Exception | None) -> None:
                    nonlocal num_ends
                    num_ends += 1

            stream, _ = session.open_stream(Leaving, b"echo")
            assert session._connection is not None
            number = session.num_received + 1
            data = Frame(Kind.DATA, stream.number, number, b"x")
            session.frames_came(session._connection, [data, Frame(Kind.RESET, stream.number, number + 1, b"")])
            for _ in range(3):
                await asyncio.sleep(0)
            assert num_ends == 1

    run(main())


def test_a_link_session_may_be_ended_by_who_may_write_again() -> None:
    """What was about to be written then had no connection to go to, and the error was somebody else's."""

    async def main() -> None:
        async with two_gates(on_stream=echo) as gates:
            session = await gates.dial()

            class Ending(asyncio.Protocol):
                def resume_writing(self) -> None:
                    session.end("enough")

            failed: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
            stream, _ = session.open_stream(Ending, b"echo")
            stream.write(bytes(10**6))
            assert await session.wait_over() == "enough"
            assert not failed

    run(main())
