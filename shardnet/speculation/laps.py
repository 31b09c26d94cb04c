"""How long a ring takes for what its first stage sends: laps, and how soon one chunk may follow another. Pure.

    lap     from when a token is sent until the one behind it is there
    step    what the first stage computes for it
    gap     between the answers to two chunks that went round one behind the other: what the slowest stage takes

Seconds are those of any steady clock.
"""

from __future__ import annotations

from shardnet.speculation.times import Times

ENOUGH = 3
"""So many laps must have been measured before anything is said of them."""
FIRST_GAP = 0.5
"""In laps: nothing is known of it at first."""
TRIPLE = 3
"""So many times the rows of any lap that was measured are tried next: what they take may be a surprise."""
FIRST_TRY, LAST_TRY = 16, 512
"""Laps without a chunk behind them, after which one is tried again, whatever was measured: at first, and at last."""
WAITED = 1.2
"""Where answers come so many times further apart than chunks were sent, these have waited for a stage."""
WEIGHT = 0.2
"""Of the newest in an average."""
LEAST_LAP_S = 1e-6
"""A clock that stood still has measured nothing."""
PUSH = 0.75
"""Chunks are sent so much sooner one after the other than answers come: so it is seen where these could come sooner."""


class Laps:
    """Of one ring, as its first stage sees it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Another ring begins."""
        self._laps = Times()
        self._steps = Times()
        self._gaps = Times()
        self._followed = 1.0
        """How much longer a lap takes when guesses follow it."""
        self._num_laps = 0
        """Since a gap was measured, or forgotten."""
        self._tried_after = FIRST_TRY
        """After so many of these gaps are forgotten."""
        self.sent_s = 0.0
        """When the last chunk was sent, of whatever session."""

    def note_lap(self, num_rows: int, lap_s: float, *, is_followed: bool) -> None:
        """Of what was sent with so many rows; guesses were sent behind it meanwhile, or not."""
        lap_s = max(lap_s, LEAST_LAP_S)
        self._num_laps += 1
        if self.has_gaps and self._num_laps >= self._tried_after:
            self._gaps, self._followed, self._num_laps = Times(), 1.0, 0
            self._tried_after = min(2 * self._tried_after, LAST_TRY)
        if not is_followed:
            self._laps.note(num_rows, lap_s)
        elif (plain_s := self._laps.seconds(num_rows)) is not None:
            self._followed += WEIGHT * (max(1.0, min(lap_s / plain_s, 4.0)) - self._followed)

    def note_gap(self, num_rows: int, gap_s: float, apart_s: float) -> None:
        """So long after the answer to one chunk came that to the next one, of so many rows.

        Args:
            apart_s: so long after the one the other was sent. Where answers come no further apart than that, as of
                guesses that a draft has offered late, the ring has kept nobody waiting: it is no slower, and may be
                faster.
        """
        if gap_s > WAITED * apart_s or gap_s < self._gap_s(num_rows):
            self._gaps.note(num_rows, gap_s)
            self._num_laps = 0
            if gap_s < FIRST_GAP * self.lap_s(num_rows):
                self._tried_after = FIRST_TRY

    def note_step(self, num_rows: int, step_s: float) -> None:
        self._steps.note(num_rows, step_s)

    @property
    def most_rows(self) -> int:
        """What laps of more rows take is not even guessed."""
        return TRIPLE * self._laps.most_rows

    def are_known(self, num_rows: int) -> bool:
        """Whether enough was measured to say what more rows than these would take."""
        return self._laps.num_measured(num_rows) >= ENOUGH

    def lap_s(self, num_rows: int) -> float:
        """0 where nothing was measured."""
        return self._laps.seconds(num_rows) or 0.0

    def step_s(self, num_rows: int) -> float:
        """0 where nothing was measured."""
        return self._steps.seconds(num_rows) or 0.0

    def gap_s(self, num_rows: int) -> float:
        """Between the answers to chunks of so many rows."""
        return max(self._gap_s(num_rows), self.step_s(num_rows))

    def followed_s(self, num_rows: int) -> float:
        """A lap with guesses behind it."""
        return self._followed * self.lap_s(num_rows)

    def next_s(self, num_rows: int) -> float:
        """From when on another chunk may be sent behind the last one."""
        return self.sent_s + max(PUSH * self._gap_s(num_rows), self.step_s(num_rows))

    @property
    def has_gaps(self) -> bool:
        """Whether it was seen what a chunk behind another one takes."""
        return self._gaps.most_rows > 0

    def depth(self) -> int:
        """So many chunks go round without waiting for each other."""
        return max(1, int(self.lap_s(1) / max(self.gap_s(1), 1e-9) + 0.5))

    def _gap_s(self, num_rows: int) -> float:
        lap_s = self.lap_s(num_rows)
        gap_s = self._gaps.seconds(num_rows)
        return FIRST_GAP * lap_s if gap_s is None else min(gap_s, lap_s)
