"""What commands ask of the gate of a coordinator's host: invitations, who has a certificate, and to shut somebody out.

Each connection to the socket `trust` is one question and one answer, lines of JSON: {"ask": "invite"}. Only processes
of this user reach it, and those of hosts that have a certificate.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from shardnet.errors import ShardnetError, UsageError
from shardnet.trust.addresses import Address
from shardnet.trust.admission import Admission
from shardnet.trust.invitations import MOST_OPEN, Invitation, Invitations
from shardnet.trust.payload import Payload

MOST_QUESTION_BYTES = 2**12
QUESTION_S = 5.0


class TrustDesk:
    """Answers questions.

    Args:
        gates: where other hosts can dial this one now.
        shut_out: ends what is carried for a host, by its name.
        linked: the hosts with which there is a link, and where others can dial them.
    """

    def __init__(
        self,
        admission: Admission,
        invitations: Invitations,
        gates: Callable[[], Sequence[Address]],
        shut_out: Callable[[str], object],
        linked: Callable[[], Mapping[str, Sequence[Address]]],
    ) -> None:
        self._admission = admission
        self._invitations = invitations
        self._gates = gates
        self._shut_out = shut_out
        self._linked = linked
        self._on_screen: int | None = None
        """The number of the invitation that the coordinator's screen shows."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(OSError, asyncio.TimeoutError, ValueError):  # ValueError: a line without end
            question = await asyncio.wait_for(reader.readline(), QUESTION_S)
            writer.write(json.dumps(self._answer(question)).encode() + b"\n")
            await asyncio.wait_for(writer.drain(), QUESTION_S)
        writer.close()

    def _answer(self, question: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(question)
            return {"answer": self._answer_to(str(asked["ask"]), str(asked.get("name", "")))}
        except ShardnetError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {"error": "This is no question that a gate answers."}

    def _answer_to(self, ask: str, name: str) -> Any:
        now_s = time.time()
        if ask == "invite":
            return self._told(self._invitations.invite(now_s))
        if ask == "screen":
            return self._told(self._for_screen(now_s))
        if ask == "open":
            return [self._told(each) for each in self._invitations.open(now_s)]
        if ask == "announced":
            return self._announced(now_s)
        if ask == "trusted":
            linked = self._linked()
            return [_entry(each, linked) for each in self._admission.live(now_s)]
        if ask == "revoke":
            self._admission.revoke(name, now_s)
            self._shut_out(name)
            return name
        raise UsageError("This is no question that a gate answers.")

    def _for_screen(self, now_s: float) -> Invitation:
        """The one that the screen shows, also after its coordinator was started again, as long as it has a code that
        counts. There is always room for it."""
        there = {each.number: each for each in self._invitations.open(now_s)}
        shown = there.get(self._on_screen) if self._on_screen is not None else None
        if shown is not None and shown.code is not None:
            return shown
        if shown is not None:
            self._invitations.withdraw(shown.number)
        elif len(there) >= MOST_OPEN:
            self._invitations.withdraw(min(there))
        made = self._invitations.invite(now_s)
        self._on_screen = made.number
        return made

    def _announced(self, now_s: float) -> dict[str, Any]:
        """What anybody in the network may hear."""
        codes = [each.code for each in self._invitations.open(now_s)]
        return {
            "cluster": self._admission.authority.cluster_id,
            "slots": [code.slot for code in codes if code is not None],
            "addresses": [str(gate) for gate in self._gates()],
        }

    def _told(self, invitation: Invitation) -> dict[str, Any]:
        gates = tuple(self._gates())
        payload = Payload(self._admission.authority.fingerprint, invitation.token, gates)
        return {
            "number": invitation.number,
            "code": None if invitation.code is None else str(invitation.code),
            "code_until_s": invitation.code_until_s,
            "qr": payload.text,
            "qr_until_s": invitation.token_until_s,
            "addresses": [str(gate) for gate in gates],
        }


def _entry(entry: Any, linked: Mapping[str, Sequence[Address]]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "serial": f"{entry.serial:x}",
        "since_s": entry.since_s,
        "until_s": entry.until_s,
        "is_linked": entry.name in linked,
        "addresses": [str(address) for address in linked.get(entry.name, ())],
    }
