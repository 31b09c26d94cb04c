"""Strangers at the port of a gate, in all the ways that they have: none gets in, and each is logged with what it was.

The gate, and TLS, are the real ones; strangers run on the same event loop. `make test-long` sends 2,000 of them.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from strangers import AT_ANY_PACE, WAYS, Target, num_logged
from trusted import Home

from shardnet.gate import turns
from shardnet.gate.arrivals import MOST_OF_ONE, Arrivals, refused
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.newcomers import Newcomers
from shardnet.gate.own_context import OwnContext
from shardnet.gate.turns import Paces
from shardnet.process.tokens import Pace
from shardnet.trust.answering import Desk
from shardnet.trust.authority import LIFE_S
from shardnet.trust.contexts import client_context, enrolment_context, server_mark
from shardnet.trust.identity import Identity
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.payload import Payload
from shardnet.trust.peers import Peer
from shardnet.tunnel import frames
from shardnet.tunnel.frames import Kind
from shardnet.tunnel.greeting import Greeting, draw_gate, draw_identity, pack_greeting
from shardnet.tunnel.meeting import Meeting

NUM_IDLE = 100
AT_ONCE = 8
OWN_GATE = draw_gate()


class Gate:
    """Of the coordinator's host, and whom it has let in. Strangers wait for no turn unless that is asked for."""

    def __init__(self, home: Home, folder: Path, paces: Paces = AT_ANY_PACE) -> None:
        self.said: list[str] = []
        self._said_more = asyncio.Event()
        self.linked: list[Peer] = []
        self.joined: list[str] = []
        self.invitations = Invitations()
        self._meeting = Meeting(
            lambda session: None, lambda session, stream: stream.abort(), on_refused=refused(self._hear)
        )
        listeners = listen(["127.0.0.1:0"])
        (self.address,) = addresses_of(listeners)
        context = OwnContext(home.state, home.admission, [self.address], self._hear)
        key = fingerprint_of(context.identity.key.public_key())
        desk = Desk(home.admission, self.invitations, key, lambda: [self.address])
        newcomers = Newcomers(desk, self.joined.append, self._hear)
        self.arrivals = Arrivals(
            *(listeners, context, home.admission.counts, self._let_in, newcomers.take, self._hear), paces=paces
        )
        self.phone = home.member(folder / "phone", "phone")
        stolen = home.member(folder / "stolen", "stolen")
        home.admission.revoke("stolen", time.time())
        used = self.invitations.invite(time.time())
        self.invitations.use_token(used.token, time.time())
        self.target = Target(
            self.address,
            foreign=Home(folder / "foreign").member(folder / "stranger", "phone"),
            expired=home.member(folder / "expired", "expired", time.time() - 2 * LIFE_S),
            stolen=stolen,
            member=self.phone,
            used=Payload(home.admission.authority.fingerprint, used.token, ()),
        )

    def _hear(self, sentence: str) -> None:
        self.said.append(sentence)
        self._said_more.set()

    async def has_said(self, count: int) -> None:
        """What a stranger has heard, the log says a moment later."""
        while num_logged(self.said) < count:
            self._said_more.clear()
            await self._said_more.wait()

    def _let_in(self, transport: asyncio.Transport, peer: Peer) -> None:
        self.linked.append(peer)
        self._meeting.accept(transport, peer.name)

    async def is_open_for(self, identity: Identity, at: str = "127.0.0.1") -> bool:
        """Whether a member gets a link session that comes from an address."""
        reader, writer = await asyncio.open_connection(
            *self.address,
            ssl=client_context(identity),
            server_hostname=server_mark(identity, COORDINATOR),
            local_addr=(at, 0),
        )
        writer.write(frames.pack(Kind.GREETING, payload=pack_greeting(Greeting(draw_identity(), 1, True, OWN_GATE))))
        welcome = await reader.readexactly(frames.HEAD.size)
        writer.write(frames.pack_reason(Kind.GOODBYE, "looked"))  # or it is kept, and there are too many in the end
        await reader.read()
        writer.transport.abort()
        return welcome[0] == Kind.WELCOME


@pytest.mark.parametrize("count", [len(WAYS) * 10, pytest.param(len(WAYS) * 134, marks=pytest.mark.long)])
def test_no_stranger_gets_in_and_each_is_logged_once(tmp_path: Path, count: int) -> None:
    dice = random.Random(10)

    async def run() -> None:
        gate = Gate(Home(tmp_path / "home"), tmp_path)
        invited = gate.invitations.invite(time.time())
        ways = [*WAYS] * (count // len(WAYS))
        dice.shuffle(ways)
        for start in range(0, len(ways), AT_ONCE):
            await asyncio.gather(*(way(gate.target, dice) for way in ways[start : start + AT_ONCE]))
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


def test_of_many_who_come_at_once_each_is_logged(tmp_path: Path) -> None:
    """Those that made room before anybody had looked at them once were not."""

    async def run() -> None:
        gate = Gate(Home(tmp_path / "home"), tmp_path)
        idle = [socket.create_connection(gate.address) for _ in range(NUM_IDLE)]
        await gate.has_said(NUM_IDLE - MOST_OF_ONE)
        for each in idle:
            each.close()
        await gate.has_said(NUM_IDLE)
        gate.arrivals.close()
        assert len(gate.said) == NUM_IDLE

    asyncio.run(asyncio.wait_for(run(), 100))


def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """The oldest make room, and are logged; a member gets in meanwhile."""

    async def run() -> None:
        gate = Gate(Home(tmp_path / "home"), tmp_path)
        idle = [await gate.target.connect() for _ in range(NUM_IDLE)]
        assert await gate.is_open_for(gate.phone)
        held = [await gate.target.connect(enrolment_context(), "gate") for _ in range(NUM_IDLE)]
        assert await gate.is_open_for(gate.phone)
        for _, writer in (*idle, *held):
            writer.transport.abort()
        await gate.has_said(2 * NUM_IDLE)
        gate.arrivals.close()
        assert len(gate.said) == 2 * NUM_IDLE and gate.joined == []
        assert sum("made room for others" in each for each in gate.said) >= NUM_IDLE - 65

    asyncio.run(asyncio.wait_for(run(), 100))


def test_a_flood_of_strangers_is_begun_with_at_its_pace_and_members_come_in(tmp_path: Path) -> None:
    """Their handshakes were bounded in number, and not in how many were computed a second."""
    paces = Paces(of_one=Pace(5.0, 4), of_strangers=Pace(5.0, 4))

    async def run() -> None:
        gate = Gate(Home(tmp_path / "home"), tmp_path, paces)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await gate.is_open_for(gate.phone, at="127.0.0.2")
        flood = [await gate.target.connect() for _ in range(2 * NUM_IDLE)]
        for _, writer in flood:
            writer.write(b"nonsense")
        assert await gate.is_open_for(gate.phone, at="127.0.0.2"), "before those who wait"
        gate.arrivals.close()
        await gate.has_said(2 * NUM_IDLE)
        for _, writer in flood:
            writer.transport.abort()
        begun = [each for each in gate.said if "sent away" not in each]
        assert len(begun) <= 4 + 5 * (loop.time() - began_s)
        assert num_logged(gate.said) == 2 * NUM_IDLE and len(gate.said) == len(begun) + 1

    asyncio.run(asyncio.wait_for(run(), 100))


def test_many_members_behind_one_address_come_back_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than sixteen those that had begun once made room for the others."""
    monkeypatch.setattr(turns, "WAIT_S", 60.0)
    paces = Paces(of_one=Pace(0.1, MOST_OF_ONE))

    async def run() -> None:
        home = Home(tmp_path / "home")
        gate = Gate(home, tmp_path, paces)
        names = [f"phone-{number}" for number in range(2 * MOST_OF_ONE)]
        members = [home.member(tmp_path / name, name) for name in names]
        assert all(await asyncio.gather(*map(gate.is_open_for, members)))
        gate.arrivals.close()
        assert gate.said == []

    asyncio.run(asyncio.wait_for(run(), 100))
