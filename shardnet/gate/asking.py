"""How a host comes by a certificate: dials a gate, and says what `trust.asking` has to say, without any loop."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from shardnet.errors import JoinFailed
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.asking import Asking, Enrolled, by_code, by_token
from shardnet.trust.codes import Code
from shardnet.trust.contexts import enrolment_context
from shardnet.trust.handshakes import reason_of
from shardnet.trust.identity import Identity
from shardnet.trust.identity_files import host_key, keep_identity
from shardnet.trust.payload import Payload

DIAL_S = 5.0
ANSWER_S = 20.0
"""How long one gate may take for all that it says."""
ENROL_S = 60.0
"""How long it may take to be taken in, at whatever address."""


def enrol(folder: Path, invitation: Code | Payload, name: str, gates: Sequence[Address]) -> Identity:
    """Have this host taken in, and write down what it was given.

    Args:
        folder: the state folder of the cluster on this host.
        gates: where to dial, one after the other until the cluster of the invitation answers: at an address of its,
            another one may be by now, or something else.

    Raises:
        JoinFailed: nobody answers, or who answers refuses (`NameTaken` where another name would do).
        UsageError: the folder cannot be used.
    """
    state = StateFolder(folder)
    try:
        key = host_key(state)

        def machine_for(shown: bytes) -> Asking:
            if isinstance(invitation, Code):
                return by_code(invitation, key, name, shown)
            return by_token(invitation, key, name, shown)

        enrolled = _first_that_takes_in(gates, machine_for)
        dialled = [gate for gate in gates if gate not in enrolled.gates]
        return keep_identity(state, enrolled.certificate, enrolled.authority, [*enrolled.gates, *dialled])
    finally:
        state.close()


def _first_that_takes_in(gates: Sequence[Address], machine_for: Callable[[bytes], Asking]) -> Enrolled:
    """By the gate of the cluster. Nothing of the invitation was told to those before it."""
    context = enrolment_context()
    until_s = time.monotonic() + ENROL_S
    why = ""
    elsewhere: JoinFailed | None = None
    for gate in gates:
        try:
            connection = _dialled(gate, context, until_s)
        except OSError as error:
            said = reason_of(error) if isinstance(error, ssl.SSLError) else error.strerror or error
            why = f"{gate}: {said}"
            continue
        with closing(connection):
            conversation = _Conversation(connection, min(until_s, time.monotonic() + ANSWER_S))
            try:
                return conversation.hold(machine_for)
            except JoinFailed as error:
                if not conversation.may_be_elsewhere:
                    raise
                elsewhere = error
    raise elsewhere or JoinFailed(
        f"No cluster answers ({why}). Look whether it runs, and whether both are in the same network."
    )


def _dialled(gate: Address, context: ssl.SSLContext, until_s: float) -> ssl.SSLSocket:
    """
    Raises:
        OSError: nobody answers there who speaks TLS as gates do.
    """
    plain = socket.create_connection(gate, min(DIAL_S, _left_s(until_s)))
    try:
        plain.settimeout(min(ANSWER_S, _left_s(until_s)))
        return context.wrap_socket(plain)
    except OSError:
        plain.close()
        raise


class _Conversation:
    """With one gate, until a time."""

    def __init__(self, connection: ssl.SSLSocket, until_s: float) -> None:
        self._connection = connection
        self._until_s = until_s
        self.may_be_elsewhere = True
        """The cluster, so far: see `Asking.may_be_elsewhere`."""

    def hold(self, machine_for: Callable[[bytes], Asking]) -> Enrolled:
        """
        Raises:
            JoinFailed: who answers refuses, takes too long, or is no gate of the cluster.
        """
        machine = machine_for(self._connection.getpeercert(binary_form=True) or b"")
        try:
            self._say(machine.start())
            while machine.result is None:
                self._say(machine.receive(self._heard(machine), time.time()))
        except OSError as error:
            raise machine.cut_off() from error
        finally:
            self.may_be_elsewhere = machine.may_be_elsewhere
        return machine.result

    def _heard(self, machine: Asking) -> bytes:
        self._connection.settimeout(_left_s(self._until_s))
        part = self._connection.recv(2**14)
        if not part:
            raise machine.cut_off()
        return part

    def _say(self, what: bytes) -> None:
        self._connection.settimeout(_left_s(self._until_s))
        self._connection.sendall(what)


def _left_s(until_s: float) -> float:
    """
    Raises:
        TimeoutError: nothing.
    """
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("it takes too long")
    return left_s
