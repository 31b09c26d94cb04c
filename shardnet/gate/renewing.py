"""Certificates that renew themselves, at the coordinator's gate. That gate's own: see `own_context`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shardnet.errors import JoinFailed, ShardnetError
from shardnet.process.state_folder import StateFolder
from shardnet.trust.addresses import Address
from shardnet.trust.contexts import ENROL, client_context, server_mark
from shardnet.trust.handshakes import reason_of
from shardnet.trust.identity import Identity
from shardnet.trust.names import COORDINATOR

if TYPE_CHECKING:
    from shardnet.trust.asking import Enrolled

LOOK_S = 3600.0
"""How often a certificate is looked at, and how soon it is tried again when it could not be renewed."""
ANSWER_S = 20.0
"""How long a gate may take."""
PART_BYTES = 2**14
Say = Callable[[str], object]


async def stay_renewed(
    state: StateFolder, identity: Callable[[], Identity], on_renewed: Callable[[Identity], object], say: Say
) -> None:
    """Renew a host's certificate whenever that is due. Never ends by itself.

    Args:
        identity: of the host now.
        on_renewed: given the identity with the new one, which is the host's from then on.
        say: told, in a sentence, what became of it.
    """
    while True:
        if identity().needs_renewal(time.time()):
            try:
                renewed = await renew(state, identity)
            except ShardnetError as error:
                say(f"the certificate could not be renewed: {error}")
            else:
                on_renewed(renewed)
                say("the certificate was renewed")
        await asyncio.sleep(LOOK_S)


async def renew(state: StateFolder, identity: Callable[[], Identity]) -> Identity:
    """Get another certificate for the same name and key, and write it down.

    Args:
        identity: of the host now: it may hear meanwhile where the coordinator's gate is.

    Raises:
        JoinFailed: nobody answers, or who answers refuses.
        UsageError: it cannot be written.
    """
    from shardnet.trust.identity_files import keep_identity  # 10 MB, once in weeks

    why = "no address of it is known"
    for gate in identity().gates:
        try:
            enrolled = await asyncio.wait_for(_asked(identity(), gate), ANSWER_S)
        except asyncio.TimeoutError:
            why = f"{gate}: it does not answer"
        except OSError as error:
            why = f"{gate}: {reason_of(error)}"
        else:
            older = [each for each in identity().gates if each not in enrolled.gates]
            return keep_identity(state, enrolled.certificate, enrolled.authority, [*enrolled.gates, *older])
    raise JoinFailed(f"The cluster is not reached ({why}).")


async def _asked(identity: Identity, gate: Address) -> Enrolled:
    from shardnet.trust.asking import to_renew

    reader, writer = await asyncio.open_connection(
        *gate, ssl=client_context(identity, ENROL), server_hostname=server_mark(identity, COORDINATOR)
    )
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        machine = to_renew(identity, shown)
        writer.write(machine.start())
        while machine.result is None:
            part = await reader.read(PART_BYTES)
            if not part:
                raise machine.cut_off()
            writer.write(machine.receive(part, time.time()))
        return machine.result
    finally:
        writer.transport.abort()
