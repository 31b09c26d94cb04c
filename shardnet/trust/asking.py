"""How a newcomer comes in, or a member comes by a new certificate, as a machine: bytes in, bytes out.

What is said is in `answering`. The connection has not been checked by anybody; who is at the other end is proven here:
by the code, which both sides must know, or by the fingerprint that came with the token. A newcomer never takes another
authority than the proven one, and says its token to nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cryptography import x509

from shardnet.errors import JoinFailed, UsageError
from shardnet.trust.addresses import Address, parse_address
from shardnet.trust.authority import BEFORE_S, request_for
from shardnet.trust.certificates import covers, is_issued_by, name_of, read_certificate
from shardnet.trust.codes import Code
from shardnet.trust.enrolment_messages import MAGIC, How, Incoming, Kind, Message
from shardnet.trust.exchange import CodeExchange, Conversation
from shardnet.trust.identity import MOST_GATES, Identity
from shardnet.trust.keys import PrivateKey, fingerprint_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.payload import Payload
from shardnet.trust.refusals import Reason, Refused, error_of
from shardnet.versions import OWN, packed


class Enrolled(NamedTuple):
    """What a member has got, for `keep_identity`."""

    certificate: x509.Certificate
    authority: x509.Certificate
    gates: tuple[Address, ...]


@dataclass(frozen=True)
class Wish:
    """What a device wants, and what it knows of the cluster.

    Args:
        server_certificate: what the server has shown (DER), whoever that is.
        authority_key: the fingerprint of the only authority that is believed, where that is known beforehand.
    """

    how: How
    key: PrivateKey
    name: str
    server_certificate: bytes
    code: Code | None = None
    authority_key: bytes | None = None
    token: bytes = b""


def by_code(code: Code, key: PrivateKey, name: str, server_certificate: bytes) -> Asking:
    """To join with a short code."""
    return Asking(Wish(How.CODE, key, name, server_certificate, code=code))


def by_token(payload: Payload, key: PrivateKey, name: str, server_certificate: bytes) -> Asking:
    """To join with a QR code."""
    wish = Wish(How.TOKEN, key, name, server_certificate, authority_key=payload.fingerprint, token=payload.token)
    return Asking(wish)


def to_renew(identity: Identity, server_certificate: bytes) -> Asking:
    """To get a new certificate, over a connection on which the old one was shown."""
    wish = Wish(How.MEMBER, identity.key, identity.name, server_certificate, authority_key=identity.authority_key)
    return Asking(wish)


class Asking:
    """On one connection."""

    def __init__(self, wish: Wish) -> None:
        """
        Raises:
            JoinFailed: who is dialled is no gate of a cluster.
        """
        self._wish = wish
        self._incoming = Incoming()
        self._conversation = Conversation(is_newcomer=True)
        self._awaited = Kind.ELEMENT if wish.how is How.CODE else Kind.AUTHORITY
        self._exchange: CodeExchange | None = None
        self._authority: x509.Certificate | None = None
        self.may_try_again = True
        """With the same invitation, without being asked: false from where a code was tried until the other side has
        proven to know it, for each try of a stranger's is a guess; and after a token was told."""
        self.result: Enrolled | None = None
        try:
            self._server = read_certificate(wish.server_certificate)
        except ValueError as cause:
            raise _no_gate() from cause

    @property
    def is_over(self) -> bool:
        return self.result is not None

    @property
    def may_be_elsewhere(self) -> bool:
        """Whether the cluster may be at another address: who answers has not proven to be it, and was told nothing of
        the invitation."""
        return self._authority is None and self.may_try_again

    def start(self) -> bytes:
        """What is to be sent first."""
        slot = element = b""
        if self._wish.code is not None:
            server_key = fingerprint_of(self._server.public_key())
            self._exchange = CodeExchange(True, self._wish.code.secret, server_key)
            slot, element = bytes([self._wish.code.slot]), self._exchange.element
            self.may_try_again = False
        return self._conversation.say(Kind.HELLO, MAGIC, packed(OWN), bytes([self._wish.how]), slot, element)

    def receive(self, chunk: bytes, now_s: float) -> bytes:
        """Take what has arrived, and return what is to be sent.

        Raises:
            JoinFailed: the other side refuses, or is not who it should be; the connection is to be closed. Of an own
                kind (`NameTaken`) where another name would do.
        """
        answer = b""
        try:
            for message in self._incoming.messages(chunk):
                if not self.is_over:
                    answer += self._answer(message, now_s)
        except ValueError as cause:
            raise Refused(Reason.NOT_UNDERSTOOD) from cause
        return answer

    def cut_off(self) -> JoinFailed:
        """What the device is told where the connection ended before this was over."""
        again = "Try again." if self.may_try_again else "Look whether the cluster's screen shows another code now."
        return JoinFailed(f"The connection to the cluster ended before this device was taken in. {again}")

    def _answer(self, message: Message, now_s: float) -> bytes:
        """Raises ValueError where it is not what was awaited."""
        is_theirs = self._conversation.hear(message)
        if message.kind is Kind.REFUSED:
            raise self._refused(message, is_theirs)
        if message.kind is not self._awaited:
            raise ValueError("another message was awaited")
        if not is_theirs:
            raise Refused(Reason.WRONG_CODE if message.kind is Kind.AUTHORITY else Reason.NOT_UNDERSTOOD)
        if message.kind is Kind.ELEMENT:
            return self._prove(message.fields[0])
        if message.kind is Kind.AUTHORITY:
            return self._request(message.fields, now_s)
        return self._take(message.fields, now_s)

    def _refused(self, message: Message, is_theirs: bool) -> JoinFailed:
        """Until the other side has proven to know the code, it tags nothing, and nobody knows who says it."""
        is_proven = self._wish.how is not How.CODE or self._authority is not None
        if is_proven and not is_theirs:
            return Refused(Reason.NOT_UNDERSTOOD)
        reason, version = message.fields
        return error_of(Reason(int.from_bytes(reason, "big")), version)

    def _prove(self, element: bytes) -> bytes:
        assert self._exchange is not None
        self._conversation.agree(self._exchange.key(element))
        self._awaited = Kind.AUTHORITY
        return self._conversation.say(Kind.PROOF)

    def _request(self, fields: tuple[bytes, ...], now_s: float) -> bytes:
        authority, time = fields
        self._authority = self._believed(read_certificate(authority))
        self.may_try_again = self._wish.how is not How.TOKEN
        _require_same_time(now_s, int.from_bytes(time, "big"))
        self._awaited = Kind.ISSUED
        wish = self._wish
        return self._conversation.say(Kind.REQUEST, request_for(wish.key), wish.name.encode(), wish.token)

    def _believed(self, authority: x509.Certificate) -> x509.Certificate:
        """The authority, if it is the one that is expected, and the server its coordinator's."""
        expected = self._wish.authority_key
        if expected is not None and fingerprint_of(authority.public_key()) != expected:
            raise _no_gate()
        is_its_gate = is_issued_by(authority, authority) and is_issued_by(self._server, authority)
        if not is_its_gate or name_of(self._server) != COORDINATOR:
            raise _no_gate()
        return authority

    def _take(self, fields: tuple[bytes, ...], now_s: float) -> bytes:
        issued, gates = fields
        assert self._authority is not None
        certificate = read_certificate(issued)
        is_own = fingerprint_of(certificate.public_key()) == fingerprint_of(self._wish.key.public_key())
        if not is_own or not is_issued_by(certificate, self._authority) or name_of(certificate) != self._wish.name:
            raise ValueError("a certificate of somebody else")
        if not covers(certificate, now_s):
            raise ValueError("a certificate of another time")
        try:
            lines = gates.decode().split("\n")[:MOST_GATES] if gates else []
            addresses = tuple(parse_address(line) for line in lines)
        except UsageError as cause:
            raise ValueError("no addresses") from cause
        self.may_try_again = False
        self.result = Enrolled(certificate, self._authority, addresses)
        return b""


def _require_same_time(now_s: float, told_s: float) -> None:
    """Before anything is used up: certificates count from an hour before they are made."""
    hours = (now_s - told_s) / 3600
    if abs(now_s - told_s) > BEFORE_S:
        way = "ahead of" if hours > 0 else "behind"
        raise JoinFailed(
            f"This device's clock is {abs(hours):.1f} hours {way} the cluster's, and certificates hang on time. Set "
            "the clock that is wrong, and join again with the same invitation."
        )


def _no_gate() -> JoinFailed:
    return JoinFailed(
        "What answers there is not the cluster of this invitation: another program has that address, or somebody "
        "stands between the two. Look at the address that the cluster's screen shows, and ask for another invitation."
    )
