"""What a link session knows of its connection: whether that lives, and how much may be under way on it. Pure.

Both are seen from questions (PING), each of which has its answer (PONG) as soon as it has come. A PONG says how many
questions have come over this connection, so that one may answer several.
"""

from __future__ import annotations

from shardnet.tunnel import frames
from shardnet.tunnel.frames import BadFrame, Kind
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.liveness import Liveness, Look
from shardnet.tunnel.pacing import Pacing


class Attachment:
    """From one attaching to the next detaching."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.pacing = Pacing(now_s)
        self._liveness = Liveness(limits.doubt_s, limits.answer_s)
        self._looked_at_s = now_s
        self._num_asked = 0
        self._num_answers = 0
        self._num_questions = 0
        """Of the other end."""
        self._num_answered = 0

    def heard(self) -> None:
        """Something has come."""
        self._liveness.heard()

    def look(self, now_s: float, ask_after_s: float) -> Look:
        """Whether it lives; called about twice in `ask_after_s`. Who was not called for long was suspended, and the
        other end may have given it up meanwhile: it is asked at once."""
        passed_s = now_s - self._looked_at_s
        self._looked_at_s = now_s
        look = self._liveness.look(min(passed_s, ask_after_s / 2), ask_after_s)
        return self._liveness.ask() if look is Look.WAIT and passed_s > 2 * ask_after_s else look

    def ask_at_once(self, now_s: float) -> bytes:
        """A question, unless one waits for an answer. What passed before it was asked is no waiting for the answer."""
        if self._liveness.ask() is not Look.ASK:
            return b""
        self._looked_at_s = now_s
        return self.ask(now_s)

    def ask(self, now_s: float) -> bytes:
        """A question, which goes out now."""
        self._num_asked += 1
        self.pacing.asked(now_s)
        return frames.pack(Kind.PING)

    def question_came(self) -> None:
        """It is owed an answer."""
        self._num_questions += 1

    def answer(self) -> bytes:
        """What is owed, which may be nothing."""
        if self._num_answered == self._num_questions:
            return b""
        self._num_answered = self._num_questions
        return frames.pack(Kind.PONG, number=self._num_questions)

    def answer_came(self, num_questions: int, now_s: float) -> None:
        """The other end has had so many.

        Raises:
            BadFrame: it cannot have.
        """
        if not self._num_answers <= num_questions <= self._num_asked:
            raise BadFrame(f"{num_questions} questions are answered, and not {self._num_answers} to {self._num_asked}")
        for _ in range(num_questions - self._num_answers):
            self.pacing.answered(now_s)
        self._num_answers = num_questions
