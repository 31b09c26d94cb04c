"""What a stage knows of one session that is open: what is here of it, was sent, was sampled, and is guessed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from shardnet.speculation.guesser import Guesser
from shardnet.speculation.lineage import Line, sent_then
from shardnet.speculation.tags import TAG_BYTES
from shardnet.stage.row_memory import RowMemory
from shardnet.stage.sampling import Sampler
from shardnet.stage.session_cache import SessionCache
from shardnet.transport.listener_messages import digest
from shardnet.transport.messages import Part
from shardnet.transport.session_messages import SessionSpec


@dataclass(slots=True)
class LiveSession:
    """What a step needs of a session."""

    spec: SessionSpec
    kv: SessionCache
    sampler: Sampler | None
    sample_from: int
    """As in the spec; then behind the last token that was sampled. What is replayed is not sampled again."""
    next_sent: int
    """The next stage has, or was sent, so many tokens. What comes behind them is still to be sent: see `onward`."""
    kept_from: int
    """What was sent is kept from this position on."""
    came: array[int] = field(default_factory=lambda: array("q"))
    """At the ring's first stage: ids that have come, of all tokens that it has applied."""
    sampled: array[int] = field(default_factory=lambda: array("q"))
    """Where the head is: ids; the first one stands at position `kept_from`."""
    digest: int = 0
    """Where the head is: of the answer before `sample_from`, where somebody listens."""
    is_over: bool = False
    """The last of them is the answer's last, and does not go on."""
    is_held: bool = False
    """It takes part in no step: it is copied from another stage, and how much of it the next one has is not known."""
    num_shared: int = 0
    """So many of its tokens at most were another session's: fewer, where another stage has fewer."""
    branch: int = 0
    """What is here of it, with the next two: see `line`."""
    branch_from: int = 0
    certain: int = 0
    tags: dict[int, bytes] = field(default_factory=dict)
    """Of the guesses that are here, by position."""
    num_checked: int = 0
    """Where the head is: guesses that were checked since the last token."""
    told: int = 0
    """The next stage knows that so many tokens are no guesses."""
    guess_from: int = 0
    """At the ring's first stage: nothing is guessed as long as it has fewer tokens."""
    guesser: Guesser | None = None
    """At the ring's first stage, once it guesses."""

    rows: RowMemory | None = None
    """Where the head is: its last hidden states, where they are read."""

    @property
    def line(self) -> Line:
        """What is here of it. Where the head is, no guess outlasts a step."""
        return Line(self.branch, self.kv.length, self.certain, self.branch_from)

    @property
    def safe_length(self) -> int:
        """Tokens that are here and are no guesses: what others hear of, and get."""
        return min(self.kv.length, self.certain)

    def turn(self, line: Line) -> None:
        """This is what is here of it: what goes beyond that is given up, and so is what was sent of it."""
        before = self.line
        assert line.length <= before.length and line.branch >= before.branch, (before, line)
        if self.sampler is None:
            self.next_sent = sent_then(self.next_sent, self.told, before, line)
        self.kv.length = line.length
        self.branch, self.certain, self.branch_from = line.branch, line.certain, line.branch_from

    def give_up_guesses(self) -> None:
        """Have no token that is a guess."""
        if self.guesser is not None:
            self.guesser.give_up()
        safe, length = self.safe_length, self.kv.length
        if safe == length:
            return
        if self.sampler is None and safe < self.next_sent <= length:
            self.next_sent = safe
        del self.came[safe:length]
        self.tags.clear()
        self.kv.length = safe

    def note_applied(self, part: Part, num_right: int) -> None:
        """A part of its branch is here, or as much of it as was not guessed wrong, where the head is."""
        if self.sampler is not None:
            self.certain = self.kv.length
            del self.came[self.kv.length : self.kv.length + part.num_tokens - num_right]
            return
        if self.tags:
            self.tags = {at: each for at, each in self.tags.items() if part.certain <= at < part.position}
        for index in range(len(part.tags) // TAG_BYTES):
            at = part.end - len(part.tags) // TAG_BYTES + index
            self.tags[at] = part.tags[index * TAG_BYTES : (index + 1) * TAG_BYTES]

    def sent(self, part: Part) -> None:
        """The next stage has this, or will."""
        self.next_sent = part.end
        self.told = max(self.told, min(part.certain, part.end))

    def part(self, first: int, end: int) -> Part:
        """Some of its tokens that are here, as they are sent."""
        num_guesses = max(end - self.certain, 0)
        tags = b"".join(self.tags[at] for at in range(max(first, end - num_guesses), end)) if num_guesses else b""
        return Part(self.spec.session, first, end - first, self.branch, self.branch_from, num_guesses, tags)

    def note_sampled(self, token_id: int) -> None:
        """This one was sampled behind `sample_from` tokens."""
        self.sampled.append(token_id)
        self.digest = digest((token_id,), self.digest)
        self.sample_from += 1

    def look_ahead(self) -> None:
        """Where the head is: what can be known of the next token before its scores come."""
        if self.sampler is not None and self.sampler.constraint is not None and not self.is_over:
            self.sampler.constraint.look_ahead()

    @property
    def can_share(self) -> bool:
        """Whether others may begin with its tokens: all that was sent of them is kept, too."""
        return not self.is_held and (self.sampler is not None or self.kept_from == 0)

    @property
    def is_settled(self) -> bool:
        """Whether what it began with is certain: all stages have agreed on that before its first step."""
        return self.num_shared == 0 or self.kv.length > self.num_shared

    @property
    def is_untouched(self) -> bool:
        """Whether no step has had part in it yet."""
        return self.certain <= self.num_shared

    def share_at_most(self, num_tokens: int) -> None:
        """No step has had part in it yet: begin with fewer of another session's tokens, where it has more."""
        if num_tokens < self.num_shared:
            self.num_shared = num_tokens
            self.kv.length = self.certain = min(self.kv.length, num_tokens)
            self.came = self.came[:num_tokens]
            if self.sampler is None:
                self.next_sent = self.told = num_tokens

    def forget_sent(self) -> None:
        """The stage ends with another unit now: what it has sent is not what it would send, and is of no use."""
        self.sampler, self.rows, self.sampled, self.is_over = None, None, array("q"), False
        self.kept_from = self.kv.length


def begun_at(live: LiveSession, spec: SessionSpec, sampler: Sampler | None) -> LiveSession:
    """A session that was copied, with what is known of its answer by now: more than its owner had said."""
    kept_from = live.kept_from if sampler is None else spec.sample_from
    next_sent = max(spec.send_from, kept_from)
    if sampler is not None and live.sampler is not None:
        sampler.go_on_from(live.sampler)
    return LiveSession(
        spec,
        live.kv,
        sampler,
        spec.sample_from,
        next_sent,
        kept_from,
        came=live.came,
        digest=digest_before(spec),
        is_held=live.is_held,
        num_shared=live.num_shared,
        branch=live.branch,
        branch_from=live.branch_from,
        certain=live.certain,
        told=spec.send_from,
        guess_from=max(live.guess_from, spec.guess_from),
    )


def digest_before(spec: SessionSpec) -> int:
    """Of the answer before what is sampled here."""
    return 0 if spec.listener is None else spec.listener.known
