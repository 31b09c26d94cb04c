"""Certificates renew themselves, before they expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trusted import Home, Wire

from shardnet.errors import JoinFailed
from shardnet.gate import renewing
from shardnet.gate.arrivals import Arrivals
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.newcomers import Newcomers
from shardnet.gate.own_context import OwnContext
from shardnet.gate.renewing import renew, stay_renewed
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.answering import Desk
from shardnet.trust.authority import LIFE_S
from shardnet.trust.contexts import client_context, server_mark
from shardnet.trust.identity import Identity, keep_gates
from shardnet.trust.identity_files import identity_in
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.peers import peer_of

LONG_AGO_S = 0.7 * LIFE_S
"""So old, a certificate is due."""
NOBODY = Address("127.0.0.1", 9)


def at_a_gate(home: Home, work: Callable[[tuple[Address, ...]], Awaitable[None]]) -> list[str]:
    """Do something while the gate of the coordinator's host is there; what that has said."""
    said: list[str] = []

    async def run() -> None:
        listeners = listen(["127.0.0.1:0"])
        gates = addresses_of(listeners)
        context = OwnContext(home.state, home.admission, gates, said.append)
        key = fingerprint_of(context.identity.key.public_key())
        newcomers = Newcomers(Desk(home.admission, Invitations(), key, lambda: gates), lambda name: None, said.append)
        arrivals = Arrivals(listeners, context, home.admission.counts, lambda *_: None, newcomers.take, said.append)
        await asyncio.wait_for(work(gates), 60)
        arrivals.close()

    asyncio.run(run())
    return said


def old_member(home: Home, folder: Path, gates: tuple[Address, ...]) -> tuple[StateFolder, Identity]:
    home.member(folder, "phone", time.time() - LONG_AGO_S)
    state = StateFolder(folder)
    keep_gates(state, gates)
    identity = identity_in(folder)
    assert identity is not None and identity.needs_renewal(time.time())
    return state, identity


def test_a_host_renews_its_certificate_and_keeps_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    async def work(gates: tuple[Address, ...]) -> None:
        state, identity = old_member(home, tmp_path / "phone", (NOBODY, *gates))
        got: asyncio.Future[Identity] = asyncio.get_running_loop().create_future()
        said: list[str] = []
        staying = asyncio.ensure_future(stay_renewed(state, lambda: identity, got.set_result, said.append))
        renewed = await got
        staying.cancel()
        assert renewed.serial != identity.serial and not renewed.needs_renewal(time.time())
        assert renewed.name == "phone" and renewed.gates == (*gates, NOBODY)
        kept = identity_in(state.path)
        assert kept is not None and kept.serial == renewed.serial and home.admission.counts(renewed.serial)

    assert [each.partition(": ")[2] for each in at_a_gate(home, work)] == ["phone has a new certificate"]


def test_what_is_heard_of_the_coordinators_gate_meanwhile_is_not_forgotten(tmp_path: Path) -> None:
    """The addresses from before it asked were written down again, and counted from then on."""
    home = Home(tmp_path / "home")
    heard = Address("192.0.2.7", 29500)

    async def work(gates: tuple[Address, ...]) -> None:
        state, identity = old_member(home, tmp_path / "phone", gates)
        asking = asyncio.ensure_future(renew(state, lambda: identity))
        await asyncio.sleep(0)
        identity = replace(identity, gates=(heard, *gates))
        renewed = await asking
        assert heard in renewed.gates
        assert identity_in(state.path).gates == renewed.gates  # type: ignore[union-attr]

    at_a_gate(home, work)


def test_one_that_was_revoked_gets_none(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    async def work(gates: tuple[Address, ...]) -> None:
        state, identity = old_member(home, tmp_path / "phone", gates)
        home.admission.revoke("phone", time.time())
        with pytest.raises(JoinFailed):
            await renew(state, lambda: identity)
        kept = identity_in(state.path)
        assert kept is not None and kept.serial == identity.serial

    (said,) = at_a_gate(home, work)
    assert "showed the certificate of phone, which was revoked" in said


def test_a_cluster_that_is_away_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewing, "LOOK_S", 0.0)
    home = Home(tmp_path / "home")
    state, identity = old_member(home, tmp_path / "phone", (NOBODY,))

    async def twice() -> list[str]:
        said: list[str] = []
        enough = asyncio.Event()

        def hear(sentence: str) -> None:
            said.append(sentence)
            if len(said) == 2:
                enough.set()

        staying = asyncio.ensure_future(stay_renewed(state, lambda: identity, lambda renewed: None, hear))
        await asyncio.wait_for(enough.wait(), 60)
        staying.cancel()
        return said

    for sentence in asyncio.run(twice())[:2]:
        assert sentence.startswith("the certificate could not be renewed: The cluster is not reached (127.0.0.1:9: ")


def test_the_gates_own_certificate_is_renewed_while_it_runs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", time.time() - LONG_AGO_S)
    said: list[str] = []
    context = OwnContext(home.state, home.admission, home.identity.gates, said.append)
    assert context.identity.serial != home.identity.serial and said == []  # it was due at the start
    first = context()
    assert context() is first
    context.identity = home.identity  # time has gone by
    phone = home.member(tmp_path / "phone", "phone")
    wire = Wire(context(), client_context(phone), server_mark(phone, COORDINATOR)).shake()
    shown = peer_of(wire.client)
    assert shown is not None and shown.serial == context.identity.serial != home.identity.serial
    assert said == ["the gate's own certificate was renewed"]


def test_a_disk_that_is_full_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    home = Home(tmp_path / "home", time.time() - LONG_AGO_S)
    said: list[str] = []
    context = OwnContext(home.state, home.admission, home.identity.gates, said.append)
    before, context.identity = context(), home.identity
    monkeypatch.setattr(home.state, "write", full)
    assert context() is before and context() is before
    (sentence,) = said
    assert sentence.startswith("the gate's own certificate could not be renewed: ")
