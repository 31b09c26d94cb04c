"""Strangers at the port of a gate, in all the ways that they have: none gets in, and each is logged with what it was.

The gate, and TLS, are the real ones; strangers run on the same event loop. `make test-long` sends 2,000 of them.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from trusted import Home

from shardnet.errors import JoinFailed
from shardnet.gate.arrivals import Arrivals
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.newcomers import Newcomers
from shardnet.gate.renewing import OwnContext
from shardnet.trust.answering import Desk
from shardnet.trust.asking import Asking, by_code, by_token
from shardnet.trust.authority import LIFE_S
from shardnet.trust.certificates import Peer
from shardnet.trust.codes import Code
from shardnet.trust.contexts import LINK, client_context, enrolment_context, server_mark
from shardnet.trust.identity import Identity
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.payload import Payload

NUM_IDLE = 100
AT_ONCE = 8
KEY = ec.generate_private_key(ec.SECP256R1())


class Gate:
    """Of the coordinator's host, and whom it has let in."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.said: list[str] = []
        self._said_more = asyncio.Event()
        self.linked: list[Peer] = []
        self.joined: list[str] = []
        self.invitations = Invitations()
        listeners = listen(["127.0.0.1:0"])
        (self.address,) = addresses_of(listeners)
        context = OwnContext(home.state, home.admission, [self.address], self._hear)
        key = fingerprint_of(context.identity.key.public_key())
        desk = Desk(home.admission, self.invitations, key, lambda: [self.address])
        newcomers = Newcomers(desk, self.joined.append, self._hear)
        self.arrivals = Arrivals(listeners, context, home.admission.counts, self._let_in, newcomers.take, self._hear)
        self.authority = home.admission.authority.fingerprint
        self.phone = home.member(folder / "phone", "phone")
        self.stolen = home.member(folder / "stolen", "stolen")
        home.admission.revoke("stolen", time.time())
        self.expired = home.member(folder / "expired", "expired", time.time() - 2 * LIFE_S)
        self.foreign = Home(folder / "foreign").member(folder / "stranger", "phone")
        used = self.invitations.invite(time.time())
        self.invitations.use_token(used.token, time.time())
        self.used = Payload(self.authority, used.token, ())

    def _hear(self, sentence: str) -> None:
        self.said.append(sentence)
        self._said_more.set()

    async def has_said(self, count: int) -> None:
        """What a stranger has heard, the log says a moment later."""
        while len(self.said) < count:
            self._said_more.clear()
            await self._said_more.wait()

    def _let_in(self, transport: asyncio.Transport, peer: Peer) -> None:
        self.linked.append(peer)
        transport.write(b"welcome")
        transport.close()

    async def connect(
        self, context: ssl.SSLContext | None = None, dialled: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, ssl=context, server_hostname=dialled)

    async def is_open_for(self, identity: Identity) -> bool:
        """Whether a member gets in."""
        reader, writer = await self.connect(client_context(identity), server_mark(identity, COORDINATOR))
        welcome = await reader.read()
        writer.transport.abort()
        return welcome == b"welcome"


async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What a stranger is told until the connection ends."""
    heard = b""
    with suppress(OSError):
        heard = await reader.read()
    writer.transport.abort()
    return heard


async def random_bytes(gate: Gate, dice: random.Random) -> None:
    reader, writer = await gate.connect()
    writer.write(dice.randbytes(dice.randrange(20, 400)))
    writer.write_eof()
    await told(reader, writer)


async def half_a_handshake(gate: Gate, dice: random.Random) -> None:
    outgoing = ssl.MemoryBIO()
    client = enrolment_context().wrap_bio(ssl.MemoryBIO(), outgoing)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    reader, writer = await gate.connect()
    writer.write(hello[: dice.randrange(6, len(hello))])
    writer.write_eof()
    await told(reader, writer)


async def another_version(gate: Gate, dice: random.Random) -> None:
    old = enrolment_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        await gate.connect(old, "gate")


def unwary(identity: Identity) -> ssl.SSLContext:
    """It shows a certificate to anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(identity.certificates_file, identity.key_file)
    context.set_alpn_protocols([LINK])
    return context


async def shown(gate: Gate, identity: Identity) -> None:
    with suppress(OSError):
        assert await told(*await gate.connect(unwary(identity), "gate")) == b""


async def of_another_authority(gate: Gate, dice: random.Random) -> None:
    await shown(gate, gate.foreign)


async def expired(gate: Gate, dice: random.Random) -> None:
    await shown(gate, gate.expired)


async def revoked(gate: Gate, dice: random.Random) -> None:
    await shown(gate, gate.stolen)


async def without_certificate(gate: Gate, dice: random.Random) -> None:
    context = enrolment_context()
    context.set_alpn_protocols([dice.choice([LINK, "h2"])])
    assert await told(*await gate.connect(context, "gate")) == b""


async def enrolling(gate: Gate, machine_of: Callable[[bytes], Asking]) -> None:
    reader, writer = await gate.connect(enrolment_context(), "gate")
    machine = machine_of(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.write(machine.start())
    with pytest.raises(JoinFailed):
        while part := await reader.read(2**14):
            writer.write(machine.receive(part, time.time()))
        raise machine.cut_off()
    assert machine.result is None
    writer.transport.abort()


async def with_a_used_invitation(gate: Gate, dice: random.Random) -> None:
    await enrolling(gate, lambda shown: by_token(gate.used, KEY, "stranger", shown))


async def with_a_guessed_token(gate: Gate, dice: random.Random) -> None:
    guess = gate.used._replace(token=dice.randbytes(16))
    await enrolling(gate, lambda shown: by_token(guess, KEY, "stranger", shown))


async def with_a_guessed_code(gate: Gate, dice: random.Random) -> None:
    guess = Code(dice.randrange(1, 8), ("acorn", "zigzag"))
    await enrolling(gate, lambda shown: by_code(guess, KEY, "stranger", shown))


async def saying_nonsense(gate: Gate, dice: random.Random) -> None:
    reader, writer = await gate.connect(enrolment_context(), "gate")
    writer.write(b"\x00\x20" + dice.randbytes(32))
    assert len(await told(reader, writer)) < 20


WAYS: dict[Callable[[Gate, random.Random], Awaitable[None]], str] = {
    random_bytes: "the other side",
    half_a_handshake: "the other side ended the connection",
    another_version: "does not speak TLS 1.3",
    of_another_authority: "is of another authority",
    expired: "has expired",
    revoked: "showed the certificate of stolen, which was revoked",
    without_certificate: "showed no certificate",
    with_a_used_invitation: "was refused: used",
    with_a_guessed_token: "was refused: unknown token",
    with_a_guessed_code: "was refused: ",
    saying_nonsense: "was refused: not understood",
}
"""With what the gate says of each."""


@pytest.mark.parametrize("count", [110, pytest.param(2002, marks=pytest.mark.long)])
def test_no_stranger_gets_in_and_each_is_logged_once(tmp_path: Path, count: int) -> None:
    dice = random.Random(10)

    async def run() -> None:
        gate = Gate(Home(tmp_path / "home"), tmp_path)
        invited = gate.invitations.invite(time.time())
        ways = [*WAYS] * (count // len(WAYS))
        dice.shuffle(ways)
        for start in range(0, len(ways), AT_ONCE):
            await asyncio.gather(*(way(gate, dice) for way in ways[start : start + AT_ONCE]))
            if start % (AT_ONCE * 25) == 0:
                assert await gate.is_open_for(gate.phone)
        await gate.has_said(len(ways))
        gate.arrivals.close()
        assert {peer.name for peer in gate.linked} == {"phone"} and gate.joined == []
        assert len(gate.said) == len(ways)
        expected = Counter(WAYS[way] for way in ways)
        for sentence, number in expected.items():
            assert sum(sentence in each for each in gate.said) >= number, sentence
        assert [each.token for each in gate.invitations.open(time.time())] == [invited.token]

    asyncio.run(asyncio.wait_for(run(), 250))


def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """The oldest make room, and are logged; a member gets in meanwhile."""

    async def run() -> None:
        gate = Gate(Home(tmp_path / "home"), tmp_path)
        idle = [await gate.connect() for _ in range(NUM_IDLE)]
        assert await gate.is_open_for(gate.phone)
        held = [await gate.connect(enrolment_context(), "gate") for _ in range(NUM_IDLE)]
        assert await gate.is_open_for(gate.phone)
        for _, writer in (*idle, *held):
            writer.transport.abort()
        await gate.has_said(2 * NUM_IDLE)
        gate.arrivals.close()
        assert len(gate.said) == 2 * NUM_IDLE and gate.joined == []
        assert sum("made room for others" in each for each in gate.said) >= NUM_IDLE - 65

    asyncio.run(asyncio.wait_for(run(), 100))
