"""How a host comes by a certificate: dials a gate, and says what `trust.asking` has to say, without any loop."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

from shardnet.errors import JoinFailed
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.asking import Asking, Enrolled, by_code, by_token
from shardnet.trust.codes import Code
from shardnet.trust.contexts import enrolment_context
from shardnet.trust.handshakes import reason_of
from shardnet.trust.identity import Identity, host_key, keep_identity
from shardnet.trust.payload import Payload

DIAL_S = 5.0
ANSWER_S = 20.0


def enrol(folder: Path, invitation: Code | Payload, name: str, gates: Sequence[Address]) -> Identity:
    """Have this host taken in, and write down what it was given.

    Args:
        folder: the state folder of the cluster on this host.
        gates: where to dial; one after the other is tried until somebody answers.

    Raises:
        JoinFailed: nobody answers, or who answers refuses (`NameTaken` where another name would do).
        UsageError: the folder cannot be used.
    """
    state = StateFolder(folder)
    try:
        key = host_key(state)
        with _dialled(gates) as connection:
            shown = connection.getpeercert(binary_form=True) or b""
            if isinstance(invitation, Code):
                machine = by_code(invitation, key, name, shown)
            else:
                machine = by_token(invitation, key, name, shown)
            enrolled = _conversed(machine, connection)
        dialled = [gate for gate in gates if gate not in enrolled.gates]
        return keep_identity(state, enrolled.certificate, enrolled.authority, [*enrolled.gates, *dialled])
    finally:
        state.close()


def _dialled(gates: Sequence[Address]) -> ssl.SSLSocket:
    context = enrolment_context()
    why = ""
    for gate in gates:
        try:
            plain = socket.create_connection(gate, DIAL_S)
        except OSError as error:
            why = f"{gate}: {error.strerror or error}"
            continue
        try:
            plain.settimeout(ANSWER_S)
            return context.wrap_socket(plain)
        except OSError as error:
            plain.close()
            why = f"{gate}: {reason_of(error)}"
    raise JoinFailed(f"No cluster answers ({why}). Look whether it runs, and whether both are in the same network.")


def _conversed(machine: Asking, connection: ssl.SSLSocket) -> Enrolled:
    try:
        connection.sendall(machine.start())
        while machine.result is None:
            part = connection.recv(2**14)
            if not part:
                raise machine.cut_off()
            answer = machine.receive(part, time.time())
            if answer:
                connection.sendall(answer)
    except OSError as error:
        raise machine.cut_off() from error
    return machine.result
