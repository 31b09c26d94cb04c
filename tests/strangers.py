"""Strangers at the port of a gate, in all the ways that they have, and what the gate says of each."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shardnet.errors import JoinFailed
from shardnet.gate.turns import Paces
from shardnet.process.tokens import Pace
from shardnet.trust.addresses import Address
from shardnet.trust.asking import Asking, by_code, by_token
from shardnet.trust.codes import Code
from shardnet.trust.contexts import CALL, LINK, client_context, enrolment_context, server_mark
from shardnet.trust.identity import Identity
from shardnet.trust.names import COORDINATOR
from shardnet.trust.payload import Payload
from shardnet.tunnel import frames
from shardnet.tunnel.frames import Kind
from shardnet.tunnel.greeting import Greeting, draw_gate, draw_identity, pack_greeting

KEY = ec.generate_private_key(ec.SECP256R1())
AT_ANY_PACE = Paces(Pace(1e6, 1000), Pace(1e6, 1000))
"""A gate at which nobody waits for a turn."""
SENT_AWAY = re.compile(r": (\d+) came too soon after others")


@dataclass
class Target:
    """A gate, and what strangers have in their hands."""

    address: Address
    foreign: Identity
    """Of another cluster."""
    expired: Identity
    stolen: Identity
    """Its certificate was revoked."""
    member: Identity
    """One that counts."""
    used: Payload
    """An invitation."""

    async def connect(
        self, context: ssl.SSLContext | None = None, dialled: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, ssl=context, server_hostname=dialled)


def num_logged(said: Iterable[str]) -> int:
    """How many strangers a log tells of. Of those whose turn did not come it tells together."""
    return sum(int(found[1]) if (found := SENT_AWAY.search(sentence)) else 1 for sentence in said)


async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What a stranger is told until the connection ends."""
    heard = b""
    with suppress(OSError):
        heard = await reader.read()
    writer.transport.abort()
    return heard


async def random_bytes(gate: Target, dice: random.Random) -> None:
    reader, writer = await gate.connect()
    writer.write(dice.randbytes(dice.randrange(20, 400)))
    writer.write_eof()
    await told(reader, writer)


async def half_a_handshake(gate: Target, dice: random.Random) -> None:
    outgoing = ssl.MemoryBIO()
    client = enrolment_context().wrap_bio(ssl.MemoryBIO(), outgoing)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    reader, writer = await gate.connect()
    writer.write(hello[: dice.randrange(6, len(hello))])
    writer.write_eof()
    await told(reader, writer)


async def another_version(gate: Target, dice: random.Random) -> None:
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


async def shown(gate: Target, identity: Identity) -> None:
    with suppress(OSError):
        assert await told(*await gate.connect(unwary(identity), "gate")) == b""


async def of_another_authority(gate: Target, dice: random.Random) -> None:
    await shown(gate, gate.foreign)


async def expired(gate: Target, dice: random.Random) -> None:
    await shown(gate, gate.expired)


async def revoked(gate: Target, dice: random.Random) -> None:
    await shown(gate, gate.stolen)


async def without_certificate(gate: Target, dice: random.Random) -> None:
    context = enrolment_context()
    context.set_alpn_protocols([dice.choice([LINK, "h2"])])
    assert await told(*await gate.connect(context, "gate")) == b""


async def enrolling(gate: Target, machine_of: Callable[[bytes], Asking]) -> None:
    reader, writer = await gate.connect(enrolment_context(), "gate")
    machine = machine_of(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.write(machine.start())
    with pytest.raises(JoinFailed):
        while part := await reader.read(2**14):
            writer.write(machine.receive(part, time.time()))
        raise machine.cut_off()
    assert machine.result is None
    writer.transport.abort()


async def with_a_used_invitation(gate: Target, dice: random.Random) -> None:
    await enrolling(gate, lambda shown: by_token(gate.used, KEY, "stranger", shown))


async def with_a_guessed_token(gate: Target, dice: random.Random) -> None:
    guess = gate.used._replace(token=dice.randbytes(16))
    await enrolling(gate, lambda shown: by_token(guess, KEY, "stranger", shown))


async def with_a_guessed_code(gate: Target, dice: random.Random) -> None:
    guess = Code(dice.randrange(1, 8), ("acorn", "zigzag"))
    await enrolling(gate, lambda shown: by_code(guess, KEY, "stranger", shown))


async def saying_nonsense(gate: Target, dice: random.Random) -> None:
    reader, writer = await gate.connect(enrolment_context(), "gate")
    writer.write(b"\x00\x20" + dice.randbytes(32))
    assert len(await told(reader, writer)) < 20


class Harm:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/harm",)


async def with_a_pickle(gate: Target, dice: random.Random) -> None:
    reader, writer = await gate.connect(enrolment_context(), "gate")
    content = pickle.dumps(Harm())
    writer.write(len(content).to_bytes(2, "big") + content)
    assert len(await told(reader, writer)) < 20


async def greeting(gate: Target, payload: bytes) -> None:
    """As a member, for a link session that is not its own."""
    dialled = server_mark(gate.member, COORDINATOR)
    reader, writer = await gate.connect(client_context(gate.member), dialled)
    writer.write(frames.pack(Kind.GREETING, payload=payload))
    assert (await told(reader, writer))[0] in (Kind.REFUSED, Kind.OTHER_VERSION)


async def replaying_a_session(gate: Target, dice: random.Random) -> None:
    await greeting(gate, pack_greeting(Greeting(draw_identity(), dice.randrange(1, 9), False, draw_gate())))


async def with_a_pickle_as_a_member(gate: Target, dice: random.Random) -> None:
    await greeting(gate, pickle.dumps(Harm()))


async def as_the_coordinator(gate: Target, dice: random.Random) -> None:
    context = client_context(gate.member, CALL)
    assert await told(*await gate.connect(context, server_mark(gate.member, COORDINATOR))) == b""


WAYS: dict[Callable[[Target, random.Random], Awaitable[None]], str] = {
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
    with_a_pickle: "was refused: not understood",
    replaying_a_session: "phone: was refused: this link session is over",
    with_a_pickle_as_a_member: "phone: was refused: The host phone runs an unknown version",
    as_the_coordinator: "phone passes for the coordinator",
}
"""With what the gate says of each."""
