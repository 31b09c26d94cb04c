"""The log book of one stage: totals always, spans when someone profiles."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from threading import Lock
from typing import NamedTuple

from shardnet.timeline.clocks import ClockOffset, offset_ns_of
from shardnet.timeline.spans import SpanTuple


class Totals(NamedTuple):
    """What a stage did since its recorder was made or reset."""

    device: str
    stage: int
    compute_s: float = 0.0
    idle_s: float = 0.0
    wire_s: float = 0.0
    """Sum over messages, as seen by the two clocks: `corrected_wire_s` removes their difference."""
    num_steps: int = 0
    num_tokens: int = 0
    num_messages: int = 0
    bytes_in: int = 0
    num_dropped_spans: int = 0
    """Oldest spans that were dropped because nobody drained them in time."""
    messages_from: tuple[tuple[str, int, float], ...] = ()
    """For each device that sent messages, how many, and their part of `wire_s`."""
    guessed_s: float = 0.0
    """Of `compute_s`: in steps with tokens that were guessed. What these take says little of how fast a device is."""
    num_guessed_steps: int = 0
    num_guessed_tokens: int = 0
    """Of all tokens of these."""

    def corrected_wire_s(self, offsets: Mapping[str, ClockOffset], gone: Collection[str] = ()) -> float:
        """Seconds on the wire, with what the two ends' clocks differ by taken out. Never negative.

        Args:
            gone: devices whose clock cannot be asked any more; what they sent is left out.
        """
        own = offset_ns_of(offsets, self.device)
        corrected_s = 0.0
        for source, count, wire_s in self.messages_from:
            if source not in gone:
                corrected_s += wire_s + count * (offset_ns_of(offsets, source) - own) / 1e9
        return max(0.0, corrected_s)


class Recorder:
    """The log book of one stage.

    Cheap enough for every step (about a microsecond a span). The compute thread calls `compute` and `idle`, any
    number of RPC threads call `wire`.
    """

    def __init__(self, device: str, stage: int, capacity: int = 100_000) -> None:
        self.device = device
        self.stage = stage
        self.keep_spans = False
        """False: totals only. True: spans too, the newest `capacity` of them until `drain`."""
        self._spans: deque[SpanTuple] = deque(maxlen=capacity)
        self._lock = Lock()
        self.reset()

    def compute(
        self, start_ns: int, end_ns: int, *, num_tokens: int, num_sessions: int, has_guesses: bool = False
    ) -> None:
        """A step ran from `start_ns` to `end_ns` for `num_tokens` new tokens of `num_sessions` sessions.

        Args:
            has_guesses: some of them were guessed.
        """
        with self._lock:
            self._compute_ns += end_ns - start_ns
            self._num_steps += 1
            self._num_tokens += num_tokens
            if has_guesses:
                self._guessed_ns += end_ns - start_ns
                self._num_guessed_steps += 1
                self._num_guessed_tokens += num_tokens
            if self.keep_spans:
                self._keep(("compute", start_ns, end_ns, num_tokens, num_sessions, 0, ""))

    def wire(self, sent_ns: int, received_ns: int, *, source_device: str, num_bytes: int, num_sessions: int) -> None:
        """A message came in. `sent_ns` is on the clock of `source_device`, `received_ns` on ours."""
        with self._lock:
            self._bytes_in += num_bytes
            num_messages, wire_ns = self._messages_from.get(source_device, (0, 0))
            self._messages_from[source_device] = num_messages + 1, wire_ns + received_ns - sent_ns
            if self.keep_spans:
                self._keep(("wire", sent_ns, received_ns, 0, num_sessions, num_bytes, source_device))

    def idle(self, start_ns: int, end_ns: int) -> None:
        """The compute thread had nothing to do from `start_ns` to `end_ns`."""
        with self._lock:
            self._idle_ns += end_ns - start_ns
            if self.keep_spans:
                self._keep(("idle", start_ns, end_ns, 0, 0, 0, ""))

    def _keep(self, span: SpanTuple) -> None:
        if len(self._spans) == self._spans.maxlen:
            self._num_dropped += 1
        self._spans.append(span)

    def totals(self) -> Totals:
        with self._lock:
            return Totals(
                device=self.device,
                stage=self.stage,
                compute_s=self._compute_ns / 1e9,
                idle_s=self._idle_ns / 1e9,
                wire_s=sum(wire_ns for _, wire_ns in self._messages_from.values()) / 1e9,
                num_steps=self._num_steps,
                num_tokens=self._num_tokens,
                num_messages=sum(count for count, _ in self._messages_from.values()),
                bytes_in=self._bytes_in,
                num_dropped_spans=self._num_dropped,
                messages_from=tuple(
                    (source, count, wire_ns / 1e9) for source, (count, wire_ns) in sorted(self._messages_from.items())
                ),
                guessed_s=self._guessed_ns / 1e9,
                num_guessed_steps=self._num_guessed_steps,
                num_guessed_tokens=self._num_guessed_tokens,
            )

    def drain(self) -> list[SpanTuple]:
        """The kept spans, oldest first, as plain tuples; the recorder forgets them (totals stay)."""
        with self._lock:
            spans = list(self._spans)
            self._spans.clear()
            return spans

    def absorb(self, other: Recorder) -> None:
        """Have done what another stage did, too, which has ended and became part of this one."""
        with other._lock:
            spans, messages = list(other._spans), dict(other._messages_from)
            sums = other._compute_ns, other._idle_ns, other._num_steps, other._num_tokens, other._bytes_in
            guessed = other._guessed_ns, other._num_guessed_steps, other._num_guessed_tokens
            num_dropped = other._num_dropped
        with self._lock:
            for span in spans:
                self._keep(span)
            for source, (count, wire_ns) in messages.items():
                own_count, own_ns = self._messages_from.get(source, (0, 0))
                self._messages_from[source] = own_count + count, own_ns + wire_ns
            self._compute_ns += sums[0]
            self._idle_ns += sums[1]
            self._num_steps += sums[2]
            self._num_tokens += sums[3]
            self._bytes_in += sums[4]
            self._guessed_ns += guessed[0]
            self._num_guessed_steps += guessed[1]
            self._num_guessed_tokens += guessed[2]
            self._num_dropped += num_dropped

    def reset(self) -> None:
        """Forget totals and spans, as before the first step."""
        with self._lock:
            self._spans.clear()
            self._messages_from: dict[str, tuple[int, int]] = {}
            self._compute_ns = self._idle_ns = 0
            self._num_steps = self._num_tokens = self._bytes_in = self._num_dropped = 0
            self._guessed_ns = self._num_guessed_steps = self._num_guessed_tokens = 0
