"""How devices come in, and who does not, over real TLS; see `trusted`."""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trusted import GATES, Home, Wire

from shardnet.errors import JoinFailed, NameTaken, OtherVersion
from shardnet.process.state_folder import StateFolder
from shardnet.trust import answering, asking, exchange
from shardnet.trust.answering import Answering, Desk
from shardnet.trust.asking import Asking, by_code, by_token, to_renew
from shardnet.trust.authority import LIFE_S, request_for
from shardnet.trust.certificates import covers, name_of
from shardnet.trust.codes import Code
from shardnet.trust.contexts import ENROL, client_context, enrolment_context, server_context, server_mark
from shardnet.trust.enrolment_messages import MAGIC, MOST_BYTES, Incoming, Kind, Message, pack
from shardnet.trust.identity import Identity
from shardnet.trust.identity_files import host_key, keep_identity
from shardnet.trust.invitations import MOST_TRIES, TRY_S, Invitation, Invitations
from shardnet.trust.keys import PrivateKey, fingerprint_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.payload import Payload
from shardnet.trust.peers import peer_of
from shardnet.trust.refusals import SENTENCES, Reason
from shardnet.versions import OURS, OWN, Version, packed

NOW_S = time.time()
KEY = ec.generate_private_key(ec.SECP256R1())


def refused(reason: Reason) -> pytest.RaisesExc[JoinFailed]:
    return pytest.RaisesExc(JoinFailed, check=lambda error: str(error) == SENTENCES[reason])


class Gate:
    """Of a cluster that invites."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.invitations = Invitations()
        self.context = server_context(self.home.identity)
        key = fingerprint_of(self.home.identity.key.public_key())
        self.desk = Desk(self.home.admission, self.invitations, key, lambda: GATES)

    def forget(self) -> None:
        """All invitations."""
        self.invitations = Invitations()
        self.desk = replace(self.desk, invitations=self.invitations)

    def invite(self) -> Invitation:
        return self.invitations.invite(NOW_S)

    def shown(self) -> Invitation:
        return self.invitations.open(NOW_S)[-1]

    def payload(self, invitation: Invitation) -> Payload:
        return Payload(self.home.admission.authority.fingerprint, invitation.token, GATES)


@dataclass
class Newcomer:
    """A device, and its connection to a gate."""

    gate: Gate
    state: StateFolder
    wire: Wire
    answering: Answering

    @property
    def key(self) -> PrivateKey:
        return host_key(self.state)

    @property
    def certificate(self) -> bytes:
        shown = self.wire.client.getpeercert(binary_form=True)
        assert shown is not None
        return shown

    def by_code(self, code: Code | None, name: str = "phone") -> Asking:
        assert code is not None
        return by_code(code, self.key, name, self.certificate)

    def by_token(self, payload: Payload, name: str = "phone") -> Asking:
        return by_token(payload, self.key, name, self.certificate)

    def join(self, machine: Asking, now_s: float = NOW_S) -> Identity:
        """To the end, whatever that is."""
        try:
            talk(self.wire, machine, self.answering, now_s)
        finally:
            self.answering.end(NOW_S)
        assert machine.result is not None
        return keep_identity(self.state, *machine.result)


def talk(wire: Wire, machine: Asking, answering: Answering, now_s: float) -> None:
    """All that the two sides say to each other over the wire."""
    said = machine.start()
    while said:
        answer = answering.receive(wire.say(wire.client, said), NOW_S)
        said = machine.receive(wire.say(wire.server, answer), now_s)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("home"))


@pytest.fixture
def dial(gate: Gate, tmp_path: Path) -> Iterator[Callable[..., Newcomer]]:
    """A newcomer with a connection; one with another folder is another device."""
    gate.forget()
    states: list[StateFolder] = []

    def dial(folder: str = "phone", to: Gate = gate) -> Newcomer:
        wire = Wire(to.context, enrolment_context()).shake()
        states.append(StateFolder(tmp_path / folder))
        return Newcomer(to, states[-1], wire, Answering(to.desk, peer_of(wire.server)))

    yield dial
    for state in states:
        state.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test of this module has taken."""
    return f"phone{abs(hash(request.node.name)) % 10**9}"


Dial = Callable[..., Newcomer]


def test_a_device_joins_by_code(gate: Gate, dial: Dial, name: str) -> None:
    newcomer = dial()
    machine = newcomer.by_code(gate.invite().code, name)
    identity = newcomer.join(machine)
    assert (identity.name, identity.gates) == (name, GATES)
    assert identity.authority_key == gate.home.admission.authority.fingerprint
    assert newcomer.answering.joined == name and newcomer.answering.outcome == f"{name} has joined"
    assert gate.invitations.open(NOW_S) == () and gate.home.admission.counts(identity.serial)
    link = Wire(gate.context, client_context(identity), server_mark(identity, COORDINATOR)).shake()
    peer = peer_of(link.server)
    assert peer is not None and (peer.name, peer.serial) == (name, identity.serial)


def test_a_device_joins_by_token(gate: Gate, dial: Dial, name: str) -> None:
    newcomer = dial()
    identity = newcomer.join(newcomer.by_token(gate.payload(gate.invite()), name))
    assert identity.name == name and newcomer.answering.joined == name
    assert gate.invitations.open(NOW_S) == () and gate.home.admission.counts(identity.serial)


def test_a_member_renews_its_certificate(gate: Gate, tmp_path: Path, name: str) -> None:
    before = gate.home.member(tmp_path, name, NOW_S - 0.7 * LIFE_S)
    assert before.needs_renewal(NOW_S)
    context = client_context(before, ENROL)
    wire = Wire(gate.context, context, server_mark(before, COORDINATOR)).shake()
    shown = wire.client.getpeercert(binary_form=True)
    assert shown is not None
    machine = to_renew(before, shown)
    answering = Answering(gate.desk, peer_of(wire.server))
    talk(wire, machine, answering, NOW_S)
    assert machine.result is not None and answering.outcome == f"{name} has a new certificate"
    assert name_of(machine.result.certificate) == name and covers(machine.result.certificate, NOW_S + 0.9 * LIFE_S)
    assert answering.joined is None
    gate.home.admission.revoke(name, NOW_S)
    with refused(Reason.KEY_REVOKED):
        talk(wire, to_renew(before, shown), Answering(gate.desk, peer_of(wire.server)), NOW_S)


def test_a_wrong_code_is_burnt_and_another_one_is_shown(gate: Gate, dial: Dial) -> None:
    code = gate.invite().code
    assert code is not None
    wrong = Code(code.slot, (code.words[1], "zigzag"))
    newcomer = dial()
    machine = newcomer.by_code(wrong)
    with refused(Reason.WRONG_CODE):
        newcomer.join(machine)
    assert newcomer.answering.outcome == "was refused: wrong code" and not machine.may_try_again
    with refused(Reason.BURNT):
        dial("tablet").join(dial("tablet2").by_code(code))
    assert gate.shown().code not in (None, code)


def test_three_wrong_codes_leave_the_token_only(gate: Gate, dial: Dial, name: str) -> None:
    invitation = gate.invite()
    for number in range(MOST_TRIES):
        code = gate.shown().code
        assert code is not None
        newcomer = dial(f"stranger{number}")
        with refused(Reason.WRONG_CODE):
            newcomer.join(newcomer.by_code(Code(code.slot, ("acorn", "zigzag"))))
    assert gate.shown().code is None
    newcomer = dial()
    newcomer.join(newcomer.by_token(gate.payload(invitation), name))


def test_a_guess_is_spent_when_the_connection_breaks_off(gate: Gate, dial: Dial) -> None:
    code = gate.invite().code
    newcomer = dial()
    machine = newcomer.by_code(code)
    assert newcomer.answering.receive(machine.start(), NOW_S)
    newcomer.answering.end(NOW_S)
    assert newcomer.answering.outcome == "tried a code and went away"
    assert gate.shown().code not in (None, code)
    assert "Look whether the cluster's screen shows another code" in str(machine.cut_off())


def test_a_guess_is_spent_when_nothing_more_comes(gate: Gate, dial: Dial) -> None:
    code = gate.invite().code
    newcomer = dial()
    machine = newcomer.by_code(code)
    proof = machine.receive(newcomer.answering.receive(machine.start(), NOW_S), NOW_S)
    with refused(Reason.BURNT):
        machine.receive(newcomer.answering.receive(proof, NOW_S + TRY_S), NOW_S)


def test_who_has_proven_the_code_and_is_cut_off_may_come_again(gate: Gate, dial: Dial, name: str) -> None:
    code = gate.invite().code
    newcomer = dial()
    machine = newcomer.by_code(code, name)
    proof = machine.receive(newcomer.answering.receive(machine.start(), NOW_S), NOW_S)
    assert not machine.may_try_again
    assert machine.receive(newcomer.answering.receive(proof, NOW_S), NOW_S)
    newcomer.answering.end(NOW_S)
    assert machine.may_try_again and newcomer.answering.outcome == "proved to be invited and went away"
    newcomer.state.close()
    again = dial()
    assert again.join(again.by_code(code, name)).name == name


def test_of_two_with_one_code_one_comes_in(gate: Gate, dial: Dial, name: str) -> None:
    """Both begin before either has ended."""
    code = gate.invite().code
    first, second = dial("a"), dial("b")
    begun = first.by_code(code, name)
    proof = begun.receive(first.answering.receive(begun.start(), NOW_S), NOW_S)
    with refused(Reason.BURNT):
        second.join(second.by_code(code, f"{name}b"))
    request = begun.receive(first.answering.receive(proof, NOW_S), NOW_S)
    begun.receive(first.answering.receive(request, NOW_S), NOW_S)
    assert begun.is_over and first.answering.joined == name


def test_of_two_with_one_token_one_comes_in(gate: Gate, dial: Dial, name: str) -> None:
    payload = gate.payload(gate.invite())
    both = [dial("a"), dial("b")]
    machines = [each.by_token(payload, f"{name}{number}") for number, each in enumerate(both)]
    requests = [
        machine.receive(each.answering.receive(machine.start(), NOW_S), NOW_S) for machine, each in zip(machines, both)
    ]
    answers = [each.answering.receive(request, NOW_S) for request, each in zip(requests, both)]
    machines[0].receive(answers[0], NOW_S)
    with refused(Reason.USED):
        machines[1].receive(answers[1], NOW_S)
    assert [machine.is_over for machine in machines] == [True, False]


@pytest.mark.parametrize("with_code", [True, False])
def test_a_name_that_is_taken_uses_nothing_up(gate: Gate, dial: Dial, name: str, with_code: bool) -> None:
    gate.home.member(dial("other").state.path / "in", name)
    invitation = gate.invite()

    def machine(newcomer: Newcomer, wanted: str) -> Asking:
        if with_code:
            return newcomer.by_code(invitation.code, wanted)
        return newcomer.by_token(gate.payload(invitation), wanted)

    newcomer = dial()
    with pytest.raises(NameTaken, match=r"Another device of the cluster has that name. Choose another"):
        newcomer.join(machine(newcomer, name))
    newcomer.state.close()
    with refused(Reason.BAD_NAME):
        bad = dial()
        bad.join(machine(bad, "coordinator"))
    bad.state.close()
    again = dial()
    assert again.join(machine(again, f"{name}-2")).name == f"{name}-2"


def test_invitations_that_are_over_say_why(gate: Gate, dial: Dial) -> None:
    invitation = gate.invite()
    gate.invitations.withdraw(invitation.number)
    payload = gate.payload(invitation)
    for said, reason in (
        (invitation.code, Reason.EXPIRED),
        (payload, Reason.EXPIRED),
        (Code(99, ("acorn", "zigzag")), Reason.UNKNOWN_CODE),
        (payload._replace(token=bytes(16)), Reason.UNKNOWN_TOKEN),
    ):
        newcomer = dial(f"phone{reason}{type(said).__name__}")
        machine = newcomer.by_token(said) if isinstance(said, Payload) else newcomer.by_code(said)
        with refused(reason):
            newcomer.join(machine)


def test_a_clock_that_is_wrong_by_a_day_is_told_before_anything_is_used_up(gate: Gate, dial: Dial) -> None:
    invitation = gate.invite()
    for number, machine_of in enumerate((Newcomer.by_code, Newcomer.by_token)):
        said = invitation.code if number == 0 else gate.payload(invitation)
        for days, way in ((-1, "24.0 hours behind"), (1, "24.0 hours ahead of")):
            newcomer = dial(f"{number}{days}")
            with pytest.raises(JoinFailed, match=f"This device's clock is {way} the cluster's"):
                newcomer.join(machine_of(newcomer, said), NOW_S + days * 86400)  # type: ignore[arg-type]
            assert gate.invitations.open(NOW_S) == (invitation,)


def test_another_version_is_told(gate: Gate, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both sides, and the code is not used up."""
    theirs = Version(OURS.wire + 1, "0.9.3")
    code = gate.invite().code
    newcomer = dial()
    with monkeypatch.context() as patch:
        patch.setattr(answering, "OURS", OURS._replace(wire=theirs.wire))
        patch.setattr(answering, "OWN", theirs)
        with pytest.raises(
            OtherVersion, match=r"^The cluster runs shardnet 0\.9\.3 \(wire format 2\); this is shardnet"
        ):
            newcomer.join(newcomer.by_code(code))
    for more in ((), (b"\x01", b"\x01", b"", b"", b"more")):
        machine = Answering(gate.desk, None)
        answer = machine.receive(pack(Message(Kind.HELLO, (MAGIC, packed(theirs), *more))), NOW_S)
        assert next(Incoming().messages(answer)).fields == (bytes([Reason.OTHER_VERSION]), packed(OWN))
        assert machine.outcome.startswith("a device that wants to join runs shardnet 0.9.3 (wire format 2); this is")
    assert gate.shown().code == code


def test_a_release_of_the_same_wire_format_is_taken_in(gate: Gate, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "OWN", Version(OURS.wire, "0.9.3"))
    newcomer = dial()
    newcomer.join(newcomer.by_code(gate.invite().code))


class Between:
    """Somebody who stands between a newcomer and the gate, with a certificate of an own cluster, and passes on all that
    both say."""

    def __init__(self, gate: Gate, folder: Path) -> None:
        self.own = Gate(folder)
        self.to_gate = Wire(gate.context, enrolment_context()).shake()
        self.answering = Answering(gate.desk, peer_of(self.to_gate.server))
        self.to_newcomer = Wire(self.own.context, enrolment_context()).shake()

    def pass_on(self, machine: Asking) -> None:
        said = machine.start()
        while said:
            heard = self.to_gate.say(self.to_gate.client, self.to_newcomer.say(self.to_newcomer.client, said))
            answer = self.to_gate.say(self.to_gate.server, self.answering.receive(heard, NOW_S))
            said = machine.receive(self.to_newcomer.say(self.to_newcomer.server, answer), NOW_S)

    @property
    def certificate(self) -> bytes:
        shown = self.to_newcomer.client.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def test_nobody_between_the_two_can_pass_a_code_on(gate: Gate, dial: Dial, tmp_path: Path) -> None:
    invitation = gate.invite()
    assert invitation.code is not None
    between = Between(gate, tmp_path / "between")
    machine = by_code(invitation.code, dial().key, "phone", between.certificate)
    with refused(Reason.WRONG_CODE):
        between.pass_on(machine)
    assert machine.result is None and not machine.may_try_again and between.answering.joined is None
    assert gate.shown().code not in (None, invitation.code)


def test_nobody_between_the_two_hears_a_token(gate: Gate, dial: Dial, tmp_path: Path) -> None:
    invitation = gate.invite()
    between = Between(gate, tmp_path / "between")
    machine = by_token(gate.payload(invitation), dial().key, "phone", between.certificate)
    heard: list[bytes] = []
    say = between.to_newcomer.say
    between.to_newcomer.say = lambda end, content: heard.append(content) or say(end, content)  # type: ignore
    with pytest.raises(JoinFailed, match="What answers there is not the cluster of this invitation"):
        between.pass_on(machine)
    assert heard and invitation.token not in b"".join(heard) and machine.may_try_again
    assert gate.invitations.open(NOW_S) == (invitation,)


def test_a_cluster_of_somebody_elses_is_not_believed(gate: Gate, dial: Dial, tmp_path: Path) -> None:
    """It knows the code's words as little as its own authority is the one of the QR code."""
    other = Gate(tmp_path / "other")
    theirs, ours = other.invite(), gate.invite()
    assert theirs.code is not None and ours.code is not None
    newcomer = dial(to=other)
    with refused(Reason.WRONG_CODE):
        newcomer.join(newcomer.by_code(Code(theirs.code.slot, ours.code.words)))
    newcomer = dial("b", to=other)
    with pytest.raises(JoinFailed, match="not the cluster of this invitation"):
        newcomer.join(newcomer.by_token(gate.payload(ours)))


def test_a_member_cannot_pass_for_the_cluster(gate: Gate, dial: Dial, tmp_path: Path, name: str) -> None:
    """A phone that was stolen has a certificate of the true authority, but not under the coordinator's name."""
    stolen = gate.home.member(tmp_path / "stolen", name)
    wire = Wire(server_context(stolen), enrolment_context()).shake()
    shown = wire.client.getpeercert(binary_form=True)
    assert shown is not None
    invitation = gate.invite()
    machine = by_token(gate.payload(invitation), dial().key, "tablet", shown)
    answering = Answering(gate.desk, None)
    with pytest.raises(JoinFailed, match="not the cluster of this invitation"):
        machine.receive(answering.receive(machine.start(), NOW_S), NOW_S)


def transcript(gate: Gate, newcomer: Newcomer, machine: Asking) -> tuple[list[bytes], list[bytes]]:
    """All that the two sides say where all goes well."""
    newcomers, clusters = [machine.start()], []
    while newcomers[-1]:
        clusters.append(newcomer.answering.receive(newcomers[-1], NOW_S))
        newcomers.append(machine.receive(clusters[-1], NOW_S))
    return newcomers[:-1], clusters


def test_what_was_said_once_brings_nobody_in_again(gate: Gate, dial: Dial, name: str) -> None:
    for by in ("code", "token"):
        invitation = gate.invite()
        newcomer = dial(by)
        named = f"{name}{by}"
        payload = gate.payload(invitation)
        machine = newcomer.by_code(invitation.code, named) if by == "code" else newcomer.by_token(payload, named)
        said, _ = transcript(gate, newcomer, machine)
        replayed = dial(f"{by}again")
        for content in said:
            replayed.answering.receive(content, NOW_S)
        replayed.answering.end(NOW_S)
        assert replayed.answering.joined is None and "was refused" in replayed.answering.outcome


def test_nothing_is_accepted_from_its_own_sender(gate: Gate, dial: Dial) -> None:
    """What comes back like an echo, on either side."""
    code = gate.invite().code
    newcomer = dial()
    machine = newcomer.by_code(code)
    hello = machine.start()
    with refused(Reason.NOT_UNDERSTOOD):
        machine.receive(hello, NOW_S)
    element = newcomer.answering.receive(hello, NOW_S)
    answer = newcomer.answering.receive(element, NOW_S)
    assert kinds_of(answer) == [Kind.REFUSED] and newcomer.answering.is_over
    own = next(Incoming().messages(hello)).fields[4]
    fresh = dial("b").by_code(code)
    fresh.start()
    with refused(Reason.NOT_UNDERSTOOD):  # an element as it was sent, under the other kind
        fresh.receive(pack(Message(Kind.ELEMENT, (own,))), NOW_S)


def kinds_of(content: bytes) -> list[Kind]:
    return [message.kind for message in Incoming().messages(content)]


def test_nothing_is_tagged_before_the_newcomer_has_proven(gate: Gate, dial: Dial) -> None:
    code = gate.invite().code
    newcomer = dial()
    machine = newcomer.by_code(code)
    hello = machine.start()
    element, refusal = newcomer.answering.receive(hello, NOW_S), newcomer.answering.receive(hello, NOW_S)
    assert [next(Incoming().messages(each)).tag for each in (element, refusal)] == [b"", b""]
    proof = machine.receive(element, NOW_S)
    assert len(next(Incoming().messages(proof)).tag) == 32


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("how", ["tag", "field", "kind", "repeat"])
def test_a_changed_message_of_the_newcomers_brings_nobody_in(
    gate: Gate, dial: Dial, at: int, how: str, name: str
) -> None:
    newcomer = dial()
    machine = newcomer.by_code(gate.invite().code, name)
    said = machine.start()
    for number in range(3):
        if number == at:
            said = changed(said, how)
        answer = newcomer.answering.receive(said, NOW_S)
        if newcomer.answering.is_over:
            break
        try:
            said = machine.receive(answer, NOW_S)
        except JoinFailed:
            newcomer.answering.end(NOW_S)
    assert (newcomer.answering.is_over and newcomer.answering.joined is None) or how == "repeat"
    assert (how == "repeat" and at == 2) or newcomer.answering.joined is None


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("how", ["tag", "field", "kind", "repeat"])
def test_a_changed_message_of_the_clusters_is_not_believed(
    gate: Gate, dial: Dial, at: int, how: str, name: str
) -> None:
    newcomer = dial()
    machine = newcomer.by_code(gate.invite().code, name)
    said = machine.start()
    has_heard_all = (at, how) == (2, "repeat")
    with nullcontext() if has_heard_all else pytest.raises(JoinFailed):
        for number in range(3):
            answer = newcomer.answering.receive(said, NOW_S)
            said = machine.receive(changed(answer, how) if number == at else answer, NOW_S)
    assert (machine.result is not None) == has_heard_all


def changed(content: bytes, how: str) -> bytes:
    (message,) = Incoming().messages(content)
    if how == "repeat":
        return content + content
    if how == "tag":
        return pack(message._replace(tag=bytes([(message.tag or bytes(32))[0] ^ 1]) + (message.tag or bytes(32))[1:]))
    if how == "kind":
        return bytes(content[:2]) + bytes([content[2] % 7 + 1]) + content[3:]
    fields = [*message.fields] or [b""]
    fields[-1] = fields[-1][:-1] + bytes([(fields[-1] or b"\x00")[-1] ^ 1])
    return pack(message._replace(fields=tuple(fields)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=80), max_size=4), st.sampled_from([b"", MAGIC]))
def test_random_bytes_are_refused_and_use_nothing_up(gate: Gate, dial: Dial, chunks: list[bytes], first: bytes) -> None:
    invitation = gate.invitations.open(NOW_S) or (gate.invite(),)
    answering = Answering(gate.desk, None)
    answers = b"".join(answering.receive(chunk, NOW_S) for chunk in (first, *chunks))
    answering.end(NOW_S)
    assert len(answers) < 20 and answering.joined is None
    assert gate.invitations.open(NOW_S) == invitation
    machine = by_token(
        gate.payload(invitation[0]), KEY, "phone", gate.home.identity.certificate.public_bytes(Encoding.DER)
    )
    machine.start()
    with suppress(JoinFailed):
        for chunk in (first, *chunks):
            assert machine.receive(chunk, NOW_S) == b""
    assert machine.result is None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(Kind), st.lists(st.binary(max_size=60), max_size=6), st.binary(max_size=40))
def test_messages_of_any_content_are_refused(
    gate: Gate, dial: Dial, kind: Kind, fields: list[bytes], tag: bytes
) -> None:
    invitation = gate.invitations.open(NOW_S) or (gate.invite(),)
    content = pack(Message(kind, tuple(fields), tag))
    for greeting in (b"", pack(Message(Kind.HELLO, (MAGIC, packed(OWN), b"\x02", b"", b"")))):
        answering = Answering(gate.desk, None)
        answering.receive(greeting, NOW_S)
        answering.receive(content, NOW_S)
        assert answering.is_over and answering.joined is None
    assert gate.invitations.open(NOW_S) == invitation


def test_sizes_are_bounded_before_anything_is_kept(gate: Gate) -> None:
    answering = Answering(gate.desk, None)
    answer = answering.receive(struct.pack(">H", MOST_BYTES + 1), NOW_S)
    assert kinds_of(answer) == [Kind.REFUSED] and answering.is_over
    assert answering.receive(bytes(10**6), NOW_S) == b""


def test_messages_come_in_any_pieces(gate: Gate, dial: Dial, name: str) -> None:
    newcomer = dial()
    machine = newcomer.by_code(gate.invite().code, name)
    said = machine.start()
    while said:
        answer = b"".join(newcomer.answering.receive(said[at : at + 1], NOW_S) for at in range(len(said)))
        said = b"".join(machine.receive(answer[at : at + 7], NOW_S) for at in range(0, len(answer), 7))
    assert machine.is_over


def test_an_element_of_no_use_burns_the_code(gate: Gate, dial: Dial) -> None:
    """Points that are none, or lie in a small group; none ends in anything but a refusal."""
    for element in (
        b"",
        b"A",
        b"A" + bytes(32),
        b"A" + b"\xff" * 32,
        b"A\x01" + bytes(31),
        b"B" + bytes(32),
        bytes(33),
    ):
        gate.forget()
        code = gate.invite().code
        assert code is not None
        answering = Answering(gate.desk, None)
        hello = Message(Kind.HELLO, (MAGIC, packed(OWN), b"\x01", bytes([code.slot]), element))
        assert kinds_of(answering.receive(pack(hello), NOW_S)) == [Kind.REFUSED]
        assert answering.is_over and gate.shown().code not in (None, code)


def test_a_newcomer_cannot_renew_and_a_member_cannot_enrol(gate: Gate, dial: Dial, tmp_path: Path, name: str) -> None:
    gate.invite()
    member = gate.home.member(tmp_path / "member", name)
    peer = peer_of(Wire(gate.context, client_context(member, ENROL), server_mark(member, COORDINATOR)).shake().server)
    for shown, how in ((None, b"\x03"), (peer, b"\x01"), (peer, b"\x02"), (None, b"\x09"), (None, b"")):
        answering = Answering(gate.desk, shown)
        answer = answering.receive(pack(Message(Kind.HELLO, (MAGIC, packed(OWN), how, b"\x01", b""))), NOW_S)
        assert kinds_of(answer) == [Kind.REFUSED] and answering.outcome == "was refused: not understood"


def test_a_full_disk_is_told_and_uses_nothing_up(
    gate: Gate, dial: Dial, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    invitation = gate.invite()
    newcomer = dial()
    machine = newcomer.by_code(invitation.code, name)
    with monkeypatch.context() as patch, refused(Reason.NOT_KEPT):
        patch.setattr(gate.home.state, "write", full)
        newcomer.join(machine)
    assert gate.invitations.open(NOW_S) == (invitation,)


def test_what_answers_without_such_a_certificate_is_no_gate(dial: Dial) -> None:
    for certificate in (b"", b"x", bytes(10**5)):
        with pytest.raises(JoinFailed, match="not the cluster of this invitation"):
            by_code(Code(1, ("acorn", "zigzag")), KEY, "phone", certificate)


def test_two_sides_with_one_code_have_one_key_and_others_another() -> None:
    def keys(first: bytes, second: bytes, seen: bytes = b"server") -> tuple[bytes, bytes]:
        newcomer = exchange.CodeExchange(True, first, b"server")
        cluster = exchange.CodeExchange(False, second, seen)
        return newcomer.key(cluster.element), cluster.key(newcomer.element)

    same = keys(b"harbour-green", b"harbour-green")
    assert same[0] == same[1] != keys(b"harbour-green", b"harbour-green")[0]
    for first, second in (keys(b"a", b"b"), keys(b"a", b"a", b"another")):
        assert first != second


def test_a_refusal_without_the_key_is_not_believed_after_the_proof(gate: Gate, dial: Dial) -> None:
    """Before it, anybody may have said it, and the device is told; after it, only the cluster can."""
    newcomer = dial()
    machine = newcomer.by_code(gate.invite().code)
    proof = machine.receive(newcomer.answering.receive(machine.start(), NOW_S), NOW_S)
    machine.receive(newcomer.answering.receive(proof, NOW_S), NOW_S)
    with refused(Reason.NOT_UNDERSTOOD):
        machine.receive(pack(Message(Kind.REFUSED, (bytes([Reason.NAME_TAKEN]), b""))), NOW_S)


def test_a_certificate_of_somebody_elses_is_not_taken(
    gate: Gate, dial: Dial, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name than was asked for, of another key, or of another time."""
    authority, own = gate.home.admission.authority, request_for(KEY)
    for number, (request, named, shift_s) in enumerate(((None, "b", 0.0), (own, "a", 0.0), (None, "a", -2 * LIFE_S))):
        newcomer = dial(f"phone{number}")
        issued = authority.issue(request or request_for(newcomer.key), f"{name}{named}", NOW_S + shift_s)
        monkeypatch.setattr(gate.home.admission, "grant", lambda *_, made=issued: made)
        with refused(Reason.NOT_UNDERSTOOD):
            newcomer.join(newcomer.by_token(gate.payload(gate.invite()), f"{name}a"))


def test_the_same_words_have_another_tag_each_time() -> None:
    newcomer, cluster = exchange.Conversation(True), exchange.Conversation(False)
    for each in (newcomer, cluster):
        each.agree(bytes(32))
    first, second = (next(Incoming().messages(newcomer.say(Kind.PROOF))) for _ in range(2))
    assert first.tag != second.tag
    assert cluster.hear(first) and not cluster.hear(first), "what is repeated is not what was said next"


def test_a_whole_enrolment_over_sockets(gate: Gate, dial: Dial, tmp_path: Path, name: str) -> None:
    """As a gate does it, with asyncio on loopback: by code, then a link under the new name."""
    code = gate.invitations.invite(time.time()).code
    assert code is not None
    links: list[object] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("ssl_object")
        peer = peer_of(connection)
        if connection.selected_alpn_protocol() == ENROL:
            answering = Answering(gate.desk, peer)
            while not answering.is_over:
                writer.write(answering.receive(await reader.read(1000), time.time()))
            await writer.drain()
            answering.end(time.time())
        else:
            links.append(peer and peer[:2])
        writer.close()

    async def run() -> Identity:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=gate.context)
        port = server.sockets[0].getsockname()[1]
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=enrolment_context())
            connection = writer.get_extra_info("ssl_object")
            state = StateFolder(tmp_path / "device")
            machine = by_code(code, host_key(state), name, connection.getpeercert(binary_form=True))
            writer.write(machine.start())
            while not machine.is_over:
                writer.write(machine.receive(await reader.read(1000), time.time()))
            writer.close()
            assert machine.result is not None
            identity = keep_identity(state, *machine.result)
            mark = server_mark(identity, COORDINATOR)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client_context(identity), server_hostname=mark
            )
            assert await reader.read() == b""
            writer.close()
            with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
                await asyncio.open_connection("127.0.0.1", port, ssl=client_context(identity))
        return identity

    identity = asyncio.run(run())
    assert links == [(name, identity.serial)]
