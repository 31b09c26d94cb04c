"""What carrying a connection between two hosts costs: plain loopback, our link session over TLS over TCP, and QUIC.

    python tests/bench/bench_tunnel.py [--turns 5] [--gigabytes 0.3] [--one-core] [--ways plain session quic]

A client and a server talk over loopback TCP: *plain* directly, the others through two gates, each a process of its own
(client -> gate == gate -> server). *quic* is aioquic (`pip install aioquic`), left out where that is not installed: one
QUIC stream for each connection. The ways take turns, and each turn measures

    round trip    median and slowest tenth of 1.2 kB there and back, one at a time, in ms
    beside bulk   the same while another connection sends as much as it can
    throughput    in MB/s, one connection, one direction
    processor     seconds of both gates for a gigabyte of that

With --one-core both gates have core 0 together, and client and server the others. Printed are medians over the turns,
with the least and the most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from shardnet.tunnel import forward
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.meeting import Meeting

MESSAGE_BYTES = 1200
NUM_TRIPS = 400
NUM_BUSY_TRIPS = 60
WARM_UP_TRIPS = 20
MOST_S = 15.0
"""For all round trips of a turn; then those that there were must do."""
STALLED_S = 30.0
"""Without a byte: then the turn is given up."""
SHARE = {"quic": 0.05}
"""Of the bytes that the others carry, so that it takes no longer than they do."""
BLOCK = bytes(2**18)


class Row(NamedTuple):
    """What one turn measured."""

    trip_ms: float
    slow_trip_ms: float
    busy_trip_ms: float
    slow_busy_trip_ms: float
    mb_per_s: float
    cpu_s_per_gb: float


# -- client and server


def serve(listener: socket.socket) -> None:
    """Echo connections that begin with "e", and swallow those that begin with "s", with a byte at the end."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        is_echo = connection.recv(1) == b"e"
        room = bytearray(2**18)
        while num_bytes := connection.recv_into(room):
            if is_echo:
                connection.sendall(memoryview(room)[:num_bytes])
        connection.sendall(b".")


def connect(port: int, kind: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(STALLED_S)
    connection.sendall(kind)
    return connection


def trips_ms(port: int, num_trips: int) -> tuple[float, float]:
    """Median and slowest tenth."""
    message = b"x" * MESSAGE_BYTES
    times: list[float] = []
    until = time.monotonic() + MOST_S
    with connect(port, b"e") as connection:
        while len(times) < num_trips + WARM_UP_TRIPS and (len(times) < 5 or time.monotonic() < until):
            begun = time.perf_counter()
            connection.sendall(message)
            left = MESSAGE_BYTES
            while left:
                part = connection.recv(left)
                if not part:
                    raise ConnectionError("the gates have given the connection up")
                left -= len(part)
            times.append((time.perf_counter() - begun) * 1e3)
            time.sleep(0.001)  # as a ring: the processes go to sleep in between
    counted = times[min(WARM_UP_TRIPS, len(times) // 4) :]
    return statistics.median(counted), statistics.quantiles(counted, n=10)[-1]


def send_bulk(port: int, num_bytes: float, stop: threading.Event) -> float:
    """Seconds until all has arrived."""
    begun = time.perf_counter()
    with connect(port, b"s") as connection:
        sent = 0
        while sent < num_bytes and not stop.is_set():
            connection.sendall(BLOCK)
            sent += len(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"."
    return time.perf_counter() - begun


def measure(port: int, num_bytes: float, gates: list[psutil.Process]) -> Row:
    trip_ms, slow_trip_ms = trips_ms(port, NUM_TRIPS)
    never, enough = threading.Event(), threading.Event()
    cpu_s = cpu_of(gates)
    seconds = send_bulk(port, num_bytes, never)
    cpu_s = cpu_of(gates) - cpu_s
    bulk = threading.Thread(target=send_bulk, args=(port, float("inf"), enough), daemon=True)
    bulk.start()
    try:
        busy_ms, slow_busy_ms = trips_ms(port, NUM_BUSY_TRIPS)
    finally:
        enough.set()
        bulk.join()
    return Row(trip_ms, slow_trip_ms, busy_ms, slow_busy_ms, num_bytes / seconds / 1e6, cpu_s / num_bytes * 1e9)


def cpu_of(processes: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


# -- gates: what they print first is the port on which they listen


def make_certificate(folder: Path) -> None:
    """Of both gates: they are one another's authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gate")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gate")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def context(folder: Path, is_server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    made.load_verify_locations(folder / "certificate.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


class Accepting(asyncio.Protocol):
    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._meeting.accept(transport, "near")


def tell_port(server: asyncio.AbstractServer) -> None:
    print(server.sockets[0].getsockname()[1], flush=True)  # type: ignore[attr-defined]


async def session_far(folder: Path, target: int) -> None:
    loop = asyncio.get_running_loop()
    tasks = set()

    def on_stream(session: Any, stream: Any) -> None:
        carrying = forward.carry(stream, lambda made: loop.create_connection(made, "127.0.0.1", target))
        tasks.add(asyncio.ensure_future(carrying))

    meeting = Meeting(lambda session: None, on_stream)
    made = context(folder, is_server=True)
    tell_port(await loop.create_server(lambda: Accepting(meeting), "127.0.0.1", 0, ssl=made))
    await asyncio.Event().wait()


async def session_near(folder: Path, target: int) -> None:
    loop = asyncio.get_running_loop()
    made = context(folder, is_server=False)

    async def reach() -> Connection:
        opened = loop.create_connection(Connection, "127.0.0.1", target, ssl=made, server_hostname="gate")
        return (await opened)[1]

    session = await Meeting(lambda session: None, lambda session, stream: None).dial(reach, "far")
    tell_port(await loop.create_server(forward.entrance(lambda: session, b"server"), "127.0.0.1", 0))
    await session.wait_over()


async def quic_room(transport: Any) -> None:
    """aioquic takes whatever it is given, and keeps it: it must be looked into, or it would hold all that is sent."""
    if hasattr(transport, "protocol"):
        stream = transport.protocol._quic._streams.get(transport.stream_id)
        while stream is not None and len(stream.sender._buffer) > 2**20:
            await asyncio.sleep(0.001)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**18):
        writer.write(data)
        await writer.drain()
        await quic_room(writer.transport)
    with contextlib.suppress(OSError, ValueError):  # the other side may have closed by now
        writer.write_eof()


async def quic_far(folder: Path, target: int) -> None:
    from aioquic.asyncio import serve as quic_serve
    from aioquic.quic.configuration import QuicConfiguration

    tasks = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
        back.close()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(carry(reader, writer)))

    configuration = QuicConfiguration(is_client=False, alpn_protocols=["gate"])
    configuration.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await quic_serve("127.0.0.1", port, configuration=configuration, stream_handler=on_stream)
    print(port, flush=True)
    await asyncio.Event().wait()


async def quic_near(folder: Path, target: int) -> None:
    from aioquic.asyncio import connect as quic_connect
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(is_client=True, alpn_protocols=["gate"], server_name="gate")
    configuration.load_verify_locations(str(folder / "certificate.pem"))
    async with quic_connect("127.0.0.1", target, configuration=configuration) as client:

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await client.create_stream()
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
            writer.close()

        tell_port(await asyncio.start_server(carry, "127.0.0.1", 0))
        await asyncio.Event().wait()


GATES = {"session": (session_far, session_near), "quic": (quic_far, quic_near)}


# -- turns


@contextlib.contextmanager
def gate(way: str, end: int, folder: Path, target: int, is_pinned: bool) -> Iterator[tuple[int, psutil.Process]]:
    """A process, and the port on which it listens."""
    command = [sys.executable, __file__, "--gate", way, str(end), str(folder), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            if is_pinned:
                os.sched_setaffinity(process.pid, {0})
            yield port, psutil.Process(process.pid)
        finally:
            process.kill()


def take_turn(way: str, folder: Path, port: int, num_bytes: float, is_pinned: bool) -> Row:
    if way == "plain":
        return measure(port, num_bytes, [])
    with gate(way, 0, folder, port, is_pinned) as (far_port, far):
        with gate(way, 1, folder, far_port, is_pinned) as (near_port, near):
            return measure(near_port, num_bytes, [far, near])


def print_table(rows: dict[str, list[Row]]) -> None:
    print("| way | round trip, ms | slowest tenth | beside bulk, ms | slowest tenth | MB/s | processor s/GB |")
    print("|---|---|---|---|---|---|---|")
    for way, measured in rows.items():
        columns = zip(*measured)
        cells = [f"{statistics.median(each):.3g} ({min(each):.3g}-{max(each):.3g})" for each in columns]
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=0.3)
    parser.add_argument("--one-core", action="store_true")
    parser.add_argument("--ways", nargs="+", default=["plain", "session", "quic"])
    options = parser.parse_args()
    ways = [way for way in options.ways if way != "quic" or has_quic()]
    if options.one_core:
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {0})
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    rows: dict[str, list[Row]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        port = listener.getsockname()[1]
        for _ in range(options.turns):
            for way in ways:
                num_bytes = options.gigabytes * 1e9 * SHARE.get(way, 1)
                try:
                    rows[way].append(take_turn(way, Path(folder), port, num_bytes, options.one_core))
                except OSError as error:  # one of aioquic's now and then, with the machine busy
                    print(f"a turn of {way} was given up: {error}", file=sys.stderr)
    print_table(rows)


def has_quic() -> bool:
    try:
        import aioquic.asyncio  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1:2] == ["--gate"]:
        way, end, folder, target = sys.argv[2:]
        asyncio.run(GATES[way][int(end)](Path(folder), int(target)))
    else:
        main()
