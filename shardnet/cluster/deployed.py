"""What a `Model` needs of the model on its devices: one that this process coordinates, or one that another does."""

from __future__ import annotations

from typing import Protocol

from shardnet.plan import Plan
from shardnet.session.conversation import Conversations
from shardnet.timeline.events import Event
from shardnet.timeline.stage_report import StageReport
from shardnet.timeline.timeline import Timeline
from shardnet.transport.base import Transport


class Deployed(Protocol):
    """A loaded model without its text: `Deployment` here, `RemoteDeployment` in a source."""

    transport: Transport
    """By which its devices are reached from here."""

    @property
    def plan(self) -> Plan:
        """Who holds what, under the version of the present ring."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened since it was loaded."""

    @property
    def sessions(self) -> Conversations: ...

    def reports(self) -> list[StageReport]:
        """What each stage did since the last `reset`. As the next two, raises what has ended the model."""

    def reset(self) -> None:
        """Begin the accounts of `reports` and `timeline` anew."""

    def timeline(self) -> Timeline:
        """The spans of all stages since the last `reset`, on one clock, and what happened to the model."""

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
