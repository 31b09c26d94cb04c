"""What a `Model` needs of the model on its devices: one that this process coordinates, or one that another does."""

from __future__ import annotations

from typing import Protocol

from shardnet.plan import Plan
from shardnet.session.conversation import Conversations
from shardnet.timeline.events import Event
from shardnet.timeline.stage_report import StageReport
from shardnet.timeline.timeline import Timeline


class Accounts(Protocol):
    """What the stages did. Everything here raises what has ended the model."""

    def reports(self) -> list[StageReport]:
        """What each stage did since the last `reset`."""

    def reset(self) -> None:
        """Begin the account of `reports` anew."""

    def timeline(self) -> Timeline:
        """The spans of all stages since the last `reset`, on one clock."""


class Deployed(Protocol):
    """A loaded model without its text: `Deployment` here, `RemoteDeployment` in a source."""

    @property
    def plan(self) -> Plan:
        """Who holds what, under the version of the present ring."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened since it was loaded."""

    @property
    def sessions(self) -> Conversations: ...

    @property
    def ring(self) -> Accounts:
        """The present one.

        Raises:
            ShardnetError: what has ended the model.
        """

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
