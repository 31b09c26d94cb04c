"""How much of a holder's link a fetch takes: what is free, and next to no queue, for a hop of decoding waits in it.

Pure: told how long each chunk took. As FAST TCP (Wei et al., 2006) does, it lets so much be under way that a chunk
takes a little longer than alone, which keeps the link full. Differs: it goes by the better part of the last chunks, as
programs that are busy answer late, and looks anew now and then how long a chunk takes alone, and from there how much
the link carries.
"""

from __future__ import annotations

from collections import deque

LEAST_BYTES = 16 << 10
MOST_BYTES = 1 << 20
CHUNKS = tuple(LEAST_BYTES << doubled for doubled in range(5))
CHUNK_S = 0.008
"""A chunk is as large as a link carries in that time, where it is one of `CHUNKS`: hops pass between two of them."""
RATES = 32
"""So many chunks count, of which the best quarter is left out: those that come together say too much."""
FULL = 1.25
QUEUE_S = 0.0015
"""So many times as long as alone, and so much longer, a chunk takes where the link is full."""
AGAIN_S = 10.0
"""How long it counts what a chunk takes alone: ways change."""


class FetchWindow:
    """Towards one holder."""

    def __init__(self) -> None:
        self._most_under_way = 0
        """Nothing beside one chunk."""
        self._under_way = 0
        self._alone_s: dict[int, float] = {}
        """The least that a chunk has taken, by its size, as `_size_of` has it."""
        self._since_s = 0.0
        self._gain = 2.0
        """Twice as much each time, until the link is full."""
        self._is_looking = True
        """How long a chunk takes alone."""
        self._rates: deque[float] = deque(maxlen=RATES)

    @property
    def bytes_per_s(self) -> float:
        """What the link seems to carry."""
        return sorted(self._rates)[len(self._rates) * 3 // 4] if self._rates else 0.0

    @property
    def chunk_bytes(self) -> int:
        """How much to ask for at once."""
        return max(LEAST_BYTES, _size_of(self.bytes_per_s * CHUNK_S))

    def is_open_for(self, num_bytes: int) -> bool:
        """Whether so many more may be asked for: what is under way comes as near as can be to what may be."""
        return self._under_way == 0 or self._under_way + num_bytes // 2 <= self._most_under_way

    def ask(self, num_bytes: int) -> int:
        """So many are asked for; returns what is under way then, as `came` wants it."""
        self._under_way += num_bytes
        return self._under_way

    def came(self, num_bytes: int, under_way: int, took_s: float, now_s: float) -> None:
        """They came. Args: `under_way`, what was so when they were asked for, these included."""
        self._under_way -= num_bytes
        took_s = max(took_s, 1e-6)
        size = _size_of(num_bytes)
        if now_s - self._since_s > AGAIN_S:
            self._since_s, self._is_looking = now_s, True
        if self._is_looking and under_way == num_bytes:
            self._is_looking, self._gain = False, 2.0
            self._alone_s.clear()
        alone_s = self._alone_s[size] = min(self._alone_s.get(size, took_s), took_s)
        if under_way * 2 >= self._most_under_way or under_way / took_s > self.bytes_per_s:
            self._rates.append(under_way / took_s)
        if took_s > FULL * alone_s + QUEUE_S:
            self._gain = FULL
        next_alone_s = self._alone_s.get(self.chunk_bytes, alone_s)
        full_bytes = int(self.bytes_per_s * (self._gain * next_alone_s + QUEUE_S))
        self._most_under_way = 0 if self._is_looking else min(MOST_BYTES, full_bytes)

    def failed(self, num_bytes: int) -> None:
        """They do not come."""
        self._under_way -= num_bytes


def _size_of(num_bytes: float) -> int:
    """The largest of `CHUNKS` that is no larger; 0 where there is none."""
    return max((each for each in CHUNKS if each <= num_bytes), default=0)
