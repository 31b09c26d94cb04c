"""How much of what streams send in bulk may be under way, so that no queue grows in which the rest would wait. Pure.

TCP sends until a buffer somewhere is full: on a Wi-Fi, a hundred milliseconds and more of other messages' waiting. So
the sender asks now and then, behind what it has sent, and reckons from the answers, as BBR does (Cardwell et al.,
2016), how many bytes a second the other end takes, and how long the way there and back is when nothing waits on it.
Under way are as many as keep that way full, and a queue of some milliseconds. Differs: that queue is given in seconds,
for links on which answers come in bursts, and no rate is kept to in between.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LEAST_BYTES = 2**15
"""What may always be under way."""
LEAST_ASKED_BYTES = 2**14
"""Behind less than that nothing is asked: decode messages are to cost no questions of their own."""
QUEUE_S = 0.004
"""How long what is sent may wait on its way, beside a quarter of the way itself."""
RATES = 32
"""So many answers count, of which the best quarter is left out: answers that come together say too much."""
CLEAR_BYTES = 2**14
CLEAR_EVERY_S = 10.0
"""So often only so much of bulk is under way for a moment, to see how long the way is when it is empty."""
MOST_CLEARING_S = 1.0
"""Then it is as long as it seems: those that send little may send much together."""


class _Question(NamedTuple):
    """Asked of the other end, behind so many bytes."""

    asked_s: float
    heard_s: float
    """When the answer before it had come."""
    sent_bytes: int
    under_way_bytes: int
    """How many of them were not known to have arrived."""
    window_bytes: int
    """How many might have been."""


class Pacing:
    """Of one connection."""

    def __init__(self, now_s: float) -> None:
        self.window_bytes = LEAST_BYTES
        """What may be under way."""
        self._sent_bytes = 0
        self._asked_bytes = 0
        """What was sent before the last question."""
        self._arrived_bytes = 0
        """What was sent before the last question that was answered."""
        self._questions: deque[_Question] = deque()
        self._rates: deque[float] = deque(maxlen=RATES)
        self._heard_s = now_s
        self._way_s = float("inf")
        self._gain = 2.0
        """What is under way, in ways full: double each time, until a queue is seen."""
        self._cleared_s = now_s
        self._is_clearing = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be sent in bulk for now."""
        return self._sent_bytes - self._arrived_bytes >= self.window_bytes

    @property
    def is_question_due(self) -> bool:
        """Whether to ask now. Never is it full without a question that will be answered."""
        unasked_bytes = self._sent_bytes - self._asked_bytes
        is_much = unasked_bytes >= max(LEAST_ASKED_BYTES, self.window_bytes // 8)
        return is_much or (self.is_full and not self._questions)

    def sent(self, num_bytes: int) -> None:
        """So much has gone out, in bulk or not."""
        self._sent_bytes += num_bytes

    def asked(self, now_s: float) -> None:
        """A question has gone out behind all of that."""
        under_way_bytes = self._sent_bytes - self._arrived_bytes
        question = _Question(now_s, self._heard_s, self._sent_bytes, under_way_bytes, self.window_bytes)
        self._questions.append(question)
        self._asked_bytes = self._sent_bytes

    def answered(self, now_s: float) -> None:
        """The oldest question was. Answers to none are passed over."""
        if not self._questions:
            return
        question = self._questions.popleft()
        self._arrived_bytes = question.sent_bytes
        way_s = max(now_s - question.asked_s, 1e-6)
        self._note_rate(question, question.under_way_bytes / max(now_s - question.heard_s, way_s))
        self._heard_s = now_s
        self._note_way(question, way_s)
        if now_s - self._cleared_s >= CLEAR_EVERY_S:
            self._cleared_s = now_s
            self._is_clearing = True
        best_bytes = self._bytes_per_s * (self._gain * self._way_s + QUEUE_S)
        self.window_bytes = CLEAR_BYTES if self._is_clearing else max(LEAST_BYTES, int(best_bytes))

    @property
    def _bytes_per_s(self) -> float:
        return sorted(self._rates)[len(self._rates) * 3 // 4] if self._rates else 0.0

    def _note_rate(self, question: _Question, bytes_per_s: float) -> None:
        """Where little was sent, for want of more or to see how long the way is, it says only what is possible."""
        was_full = question.under_way_bytes * 2 >= question.window_bytes and not self._is_clearing
        if was_full or bytes_per_s > self._bytes_per_s:
            self._rates.append(bytes_per_s)

    def _note_way(self, question: _Question, way_s: float) -> None:
        passed_s = question.asked_s - self._cleared_s
        is_clear = question.under_way_bytes <= 2 * CLEAR_BYTES or passed_s >= MOST_CLEARING_S
        if self._is_clearing and passed_s >= 0 and is_clear:
            self._is_clearing = False
            self._way_s = way_s
        self._way_s = min(self._way_s, way_s)
        if way_s > 1.25 * self._way_s + QUEUE_S / 2:
            self._gain = 1.25
