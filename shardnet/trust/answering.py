"""How a cluster takes a newcomer in, as a machine: bytes in, bytes out. See `asking` for the other side.

    by code    HELLO slot, element -> ELEMENT -> PROOF -> AUTHORITY -> REQUEST -> ISSUED
    by token   HELLO -> AUTHORITY -> REQUEST with the token -> ISSUED
    a member   the same without a token: its certificate speaks for it

The newcomer proves first. With `ELEMENT` its guess is spent, whatever comes of it. At any point the answer may be
`REFUSED`. A certificate goes out when the register has it on the disk, and uses the invitation up; whoever cannot
be given one may come again with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding

from shardnet.trust.addresses import Address
from shardnet.trust.admission import Admission
from shardnet.trust.enrolment_messages import MAGIC, How, Incoming, Kind, Message
from shardnet.trust.exchange import CodeExchange, Conversation
from shardnet.trust.identity import MOST_GATES
from shardnet.trust.invitations import Invitations, Try
from shardnet.trust.peers import Peer
from shardnet.trust.refusals import Reason, Refused
from shardnet.versions import OURS, OWN, VERSION_BYTES, Version, packed, unpacked, why_not_together


@dataclass(frozen=True)
class Desk:
    """What all answers need.

    Args:
        server_key: the fingerprint of the key in the certificate that the gate shows.
        gates: where it can be dialled, for newcomers to keep.
    """

    admission: Admission
    invitations: Invitations
    server_key: bytes
    gates: Callable[[], Sequence[Address]]


class Answering:
    """To one connection.

    Args:
        peer: the certificate that was shown, where one was.
    """

    def __init__(self, desk: Desk, peer: Peer | None) -> None:
        self._desk = desk
        self._peer = peer
        self._incoming = Incoming()
        self._conversation = Conversation(is_newcomer=False)
        self._awaited = Kind.HELLO
        self._how = How.TOKEN
        self._tried: Try | None = None
        self._used: int | None = None
        """The invitation, until the newcomer has its certificate."""
        self._other_version: Version | None = None
        """Of the newcomer, where it does not go with this one."""
        self.is_over = False
        self.joined: str | None = None
        """The name of whoever has got a certificate."""
        self.outcome = "came, and said nothing"
        """What the other side has done, for the log."""

    def receive(self, chunk: bytes, now_s: float) -> bytes:
        """Take what has arrived, and return what is to be sent."""
        if self.is_over:
            return b""
        answer = b""
        try:
            for message in self._incoming.messages(chunk):
                if not self.is_over:
                    answer += self._answer(message, now_s)
        except (Refused, ValueError) as cause:
            answer += self._refuse(cause.reason if isinstance(cause, Refused) else Reason.NOT_UNDERSTOOD, now_s)
        return answer

    def end(self, now_s: float) -> None:
        """The connection has ended, in whatever way: a try without proof has burnt its code, and an invitation for
        which nobody got a certificate is open again."""
        self.is_over = True
        if self._tried is not None:
            self._desk.invitations.fail(self._tried, now_s)
            self.outcome = "tried a code and went away"
        if self._used is not None:
            self._desk.invitations.give_back(self._used)
            self.outcome = "proved to be invited and went away"
        self._tried = self._used = None

    def _refuse(self, reason: Reason, now_s: float) -> bytes:
        self.end(now_s)
        self.outcome = f"was refused: {reason.name.lower().replace('_', ' ')}"
        if self._other_version is None:
            return self._conversation.say(Kind.REFUSED, bytes([reason]), b"")
        self.outcome = why_not_together(self._other_version, "a device that wants to join")
        return self._conversation.say(Kind.REFUSED, bytes([reason]), packed(OWN))

    def _answer(self, message: Message, now_s: float) -> bytes:
        """Raises ValueError or Refused where it is not what was awaited."""
        is_theirs = self._conversation.hear(message)
        if message.kind is Kind.PROOF and not is_theirs:
            raise Refused(Reason.WRONG_CODE)
        if message.kind is not self._awaited or not is_theirs:
            raise ValueError("another message was awaited")
        if message.kind is Kind.HELLO:
            return self._greet(message.fields, now_s)
        return self._prove(now_s) if message.kind is Kind.PROOF else self._issue(message.fields, now_s)

    def _greet(self, fields: tuple[bytes, ...], now_s: float) -> bytes:
        if fields[:1] != (MAGIC,) or len(fields) < 2 or len(fields[1]) != VERSION_BYTES:
            raise ValueError("no greeting")
        if (theirs := unpacked(fields[1])).wire != OURS.wire:
            self._other_version = theirs
            raise Refused(Reason.OTHER_VERSION)
        how, slot, element = fields[2:]
        self._how = How(int.from_bytes(how, "big"))
        if (self._how is How.MEMBER) != (self._peer is not None):
            raise ValueError("who has a certificate renews it, and nobody else")
        return self._try_code(slot, element, now_s) if self._how is How.CODE else self._show_authority(now_s)

    def _try_code(self, slot: bytes, element: bytes, now_s: float) -> bytes:
        if len(slot) != 1:
            raise ValueError("no slot")
        self._tried = self._desk.invitations.begin(slot[0], now_s)
        exchange = CodeExchange(False, self._tried.code.secret, self._desk.server_key)
        key = exchange.key(element)
        answer = self._conversation.say(Kind.ELEMENT, exchange.element)
        self._conversation.agree(key)
        self._awaited = Kind.PROOF
        return answer

    def _prove(self, now_s: float) -> bytes:
        assert self._tried is not None
        self._used = self._desk.invitations.use_code(self._tried, now_s)
        self._tried = None
        return self._show_authority(now_s)

    def _show_authority(self, now_s: float) -> bytes:
        self._awaited = Kind.REQUEST
        certificate = self._desk.admission.authority.certificate.public_bytes(Encoding.DER)
        return self._conversation.say(Kind.AUTHORITY, certificate, int(now_s).to_bytes(8, "big"))

    def _issue(self, fields: tuple[bytes, ...], now_s: float) -> bytes:
        request, name, token = fields
        if self._peer is not None:
            made = self._desk.admission.renew(request, self._peer.serial, now_s)
            self.outcome = f"{self._peer.name} has a new certificate"
        else:
            if self._how is How.TOKEN:
                self._used = self._desk.invitations.use_token(token, now_s)
            made = self._desk.admission.grant(request, name.decode(), now_s)
            self.joined = name.decode()
            self.outcome = f"{self.joined} has joined"
        self._used = None
        self.is_over = True
        gates = "\n".join(map(str, self._desk.gates()[:MOST_GATES])).encode()
        return self._conversation.say(Kind.ISSUED, made.public_bytes(Encoding.DER), gates)
