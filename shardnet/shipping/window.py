"""How much of a holder's link a fetch takes: what is free, and next to no queue, for a hop of decoding waits in it.

Pure: told how long each chunk took. As LEDBAT (RFC 6817) does, it compares that with the least that such a chunk has
taken: where the difference is more than `TARGET_S`, something queues, and less is asked for at once. Differs: what is
under way has a lower limit of one small chunk, and what chunks take at least is measured anew now and then with that.
"""

from __future__ import annotations

from shardnet.transport.shipping_messages import MOST_CHUNK_BYTES

TARGET_S = 0.01
LEAST_BYTES = 64 << 10
MOST_BYTES = 1 << 20
CHUNKS = (LEAST_BYTES, 128 << 10, 256 << 10)
CHUNK_S = 0.005
"""A chunk is as large as a link carries in that time, where it is one of `CHUNKS`: hops pass between two of them."""
AGAIN_S = 10.0
"""How long the least that a chunk took counts: ways change."""

assert max(CHUNKS) <= MOST_CHUNK_BYTES


class FetchWindow:
    """Towards one holder."""

    def __init__(self) -> None:
        self._most_under_way = LEAST_BYTES
        self._under_way = 0
        self._least_s: dict[int, float] = {}
        """By the bytes of a chunk."""
        self._since_s = 0.0
        self._bytes_per_s = 0.0

    @property
    def chunk_bytes(self) -> int:
        """How much to ask for at once."""
        return max((each for each in CHUNKS if each <= self._bytes_per_s * CHUNK_S), default=LEAST_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether one chunk more may be asked for."""
        return self._under_way == 0 or self._under_way + self.chunk_bytes <= self._most_under_way

    def ask(self, num_bytes: int) -> int:
        """So many are asked for; returns what is under way then, as `came` wants it."""
        self._under_way += num_bytes
        return self._under_way

    def came(self, num_bytes: int, under_way: int, took_s: float, now_s: float) -> None:
        """They came. Args: `under_way`, what was so when they were asked for, these included."""
        self._under_way -= num_bytes
        if now_s - self._since_s > AGAIN_S:
            self._since_s, self._most_under_way = now_s, LEAST_BYTES
            self._least_s.clear()
            return
        least_s = self._least_s[num_bytes] = min(self._least_s.get(num_bytes, took_s), took_s)
        if took_s - least_s > TARGET_S:
            self._most_under_way = max(LEAST_BYTES, self._most_under_way * 3 // 4)
        else:
            more_bytes = num_bytes * num_bytes // self._most_under_way  # one chunk, by the time that all have come
            self._most_under_way = min(MOST_BYTES, self._most_under_way + more_bytes)
        self._bytes_per_s = under_way / max(took_s, 1e-6)

    def failed(self, num_bytes: int) -> None:
        """They do not come."""
        self._under_way -= num_bytes
