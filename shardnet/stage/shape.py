"""Which units a stage has, while it holds sessions, and in what it sends.

It gives some units up, or another stage of its device becomes part of it.

Nothing is copied: blocks, keys and values stay where they lie in memory, and change hands. What waited at a stage whose
first unit is another one now is dropped, and what was sent is forgotten where the last unit is another one: whoever
lacks it is sent it by the stage before, or computes it anew.

For the compute thread, between two steps, and under the stage's lock.
"""

from __future__ import annotations

from typing import NamedTuple

from shardnet.codecs.rows import Codec
from shardnet.errors import BadRequest
from shardnet.models import Shard
from shardnet.stage.cache import KVCache
from shardnet.stage.inbox import Inbox, OnTaken
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.onward import Onward
from shardnet.stage.sent_log import kept_by
from shardnet.timeline.recorder import Recorder


class Remains(NamedTuple):
    """What a stage had that ended to become part of another one."""

    shard: Shard
    kv: KVCache
    sessions: LiveSessions
    recorder: Recorder
    sent_as: Codec


class Shape:
    """The units of one stage, and all that goes by them.

    Attributes:
        sent_as: what its hidden states travel in.
    """

    def __init__(
        self, shard: Shard, kv: KVCache, sessions: LiveSessions, inbox: Inbox, onward: Onward, sent_as: Codec
    ) -> None:
        self._shard = shard
        self._kv = kv
        self._sessions = sessions
        self._inbox = inbox
        self._onward = onward
        self.sent_as = sent_as

    def trim(self, first_unit: int, last_unit: int, sent_as: Codec) -> list[OnTaken]:
        """Give up all but these units. Returns whom to tell that what they sent waits no more.

        A session for which there is no room any more, as what the stage sends now takes more memory than what it has
        given up, is open here no longer.

        Args:
            sent_as: where its last unit is another one then.

        Raises:
            BadRequest: it has not all of these units.
        """
        shard = self._shard
        had = range(shard.first_unit, shard.last_unit + 1)
        if not (first_unit in had and last_unit in had and first_unit <= last_unit):
            raise BadRequest(
                f"A stage of units {shard.first_unit} to {shard.last_unit} cannot be trimmed to units {first_unit} to "
                f"{last_unit}: it has not all of them. Open a new stage of these units."
            )
        has_new_end, has_new_front = last_unit < shard.last_unit, first_unit > shard.first_unit
        self._sessions.give_up_guesses()
        shard.trim(first_unit, last_unit)
        if has_new_end:
            self.sent_as = sent_as
        self._sessions.trim(shard.kv_layout, kept_by(shard, self.sent_as), has_new_end=has_new_end)
        if has_new_front:
            self._sessions.forget_ids()
        if has_new_end:
            self._onward.begin_anew()
        return self._inbox.clear() if has_new_front else []

    def send_as(self, codec: Codec) -> bool:
        """Send in this from now on. Whether it is another one than before: then what was sent is forgotten."""
        is_new = codec != self.sent_as and not self._shard.has_head
        if is_new:
            self.sent_as = codec
            self._sessions.trim(self._shard.kv_layout, kept_by(self._shard, codec), has_new_end=True)
            self._onward.begin_anew()
        return is_new

    def join(self, other: Remains) -> None:
        """Have the units of a stage that has ended, too, and the sessions that both had, as far as both had come.

        Raises:
            BadRequest: they do not follow its own.
        """
        shard = self._shard
        if other.shard.first_unit != shard.last_unit + 1:
            raise BadRequest(
                f"A stage of units {other.shard.first_unit} to {other.shard.last_unit} cannot become part of one of "
                f"units {shard.first_unit} to {shard.last_unit}: it does not follow. Join stages that are neighbours."
            )
        for sessions in (self._sessions, other.sessions):
            sessions.give_up_guesses()
        shard.join(other.shard)
        self.sent_as = other.sent_as
        self._kv.join(other.kv, kept_by(shard, self.sent_as))
        self._sessions.join(other.sessions)
        self._onward.begin_anew()
