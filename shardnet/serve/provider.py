"""Which model answers: that of a cluster which runs, whatever it holds by now, or one of this process alone."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, ClusterError, ShardnetError
from shardnet.process.lasting import require_running
from shardnet.serve.cluster_view import shown_invitation, shown_plan
from shardnet.session.session import Session
from shardnet.session.sessions import Sessions
from shardnet.source.glance import glance
from shardnet.source.running_cluster import RunningCluster
from shardnet.source.trust import ask_gate
from shardnet.transport.source_messages import SessionStatus

LOOK_AGAIN_S = 0.5
"""So long a model is taken for the one that is loaded; a session of another one is refused in any case."""


class Provider(Protocol):
    """Safe to use from several threads. All of it may wait."""

    def model(self) -> Model:
        """The one that is there now.

        Raises:
            ShardnetError: there is none.
        """

    def status(self) -> dict[str, Any]:
        """The cluster, as `shardnet status --json` has it.

        Raises:
            ShardnetError: its coordinator does not answer.
        """

    def plan(self) -> dict[str, Any]:
        """The plan in force; see `shown_plan`. Raises what `model` does."""

    def invitation(self) -> dict[str, Any]:
        """How one more device gets in; see `shown_invitation`. Whoever has it can join.

        Raises:
            ShardnetError: none can.
        """


class OfCluster:
    """The model of a cluster that `shardnet up` has started, and of the one that is started there after it. A context
    manager: leaving it ends the answers that were asked for here.

    Args:
        cluster: it is closed where another one takes its place.
        folder: the state folder in which clusters run, one after the other.
    """

    def __init__(self, cluster: RunningCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._latest: tuple[float, Model] | None = None
        self._joining = threading.Lock()

    def model(self) -> Model:
        require_running(self._folder)  # before what is remembered: its coordinator may have been killed just now
        latest = self._latest
        if latest is not None and time.monotonic() - latest[0] < LOOK_AGAIN_S:
            return latest[1]
        try:
            model = self._joined().model_now()
        except BadRequest as error:  # no fault of who asks
            raise ClusterError(str(error)) from error
        self._latest = (time.monotonic(), model)
        return model

    def _joined(self) -> RunningCluster:
        """The cluster that runs now.

        Raises:
            ClusterError: it cannot be joined.
        """
        with self._joining:
            if self._cluster.is_over:
                self._cluster.close()  # a process is in one cluster at a time
                self._cluster = RunningCluster.connect(self._folder)
            return self._cluster

    def __enter__(self) -> OfCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.close()

    def status(self) -> dict[str, Any]:
        return glance(self._folder)

    def plan(self) -> dict[str, Any]:
        return _shown(self.model())

    def invitation(self) -> dict[str, Any]:
        return shown_invitation(ask_gate(self._folder, "screen"))  # the one on the coordinator's screen


class OfOne:
    """A model that this process coordinates."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._loaded_s = time.time()

    def model(self) -> Model:
        self._model.deployment.sessions.raise_if_ended()
        return self._model

    def status(self) -> dict[str, Any]:
        plan, ended = self._model.plan, ""
        try:
            self.model()
        except ShardnetError as error:
            ended = str(error)
        held = self._model.deployment.sessions
        assert isinstance(held, Sessions), "this process coordinates"
        sessions = [_shown_session(session) for session in held.under_way()]
        members: dict[str, list[tuple[int, int]]] = {}
        for stage in plan.stages:
            members.setdefault(stage.device, []).append((stage.first_unit, stage.last_unit))
        return {
            "members": [
                {"name": name, "state": "present", "units": units, "num_sessions": len(sessions)}
                for name, units in members.items()
            ],
            "sources": [],
            "model": "" if ended else self._model.profile.name,
            "loading": "",
            "why_none": ended,
            "plan_version": plan.version,
            "stages": [
                {"device": each.device, "first_unit": each.first_unit, "last_unit": each.last_unit}
                for each in plan.stages
            ],
            "sessions": sessions,
            "tokens_per_s": None,
            "events": [{**asdict(each), "at_s": round(self._loaded_s + each.at_s, 3)} for each in self._model.events],
            "broken_off": [],
        }

    def plan(self) -> dict[str, Any]:
        return _shown(self.model())

    def invitation(self) -> dict[str, Any]:
        raise BadRequest(
            "No device can join: this server has started devices of its own. shardnet up opens a cluster for others."
        )


def _shown_session(session: Session) -> dict[str, Any]:
    """As `SessionStatus`; all are asked for by this process."""
    prompt, tokens = session.spec.prompt_tokens, session.answer
    checked, right = sum(max(each.guesses, 0) for each in tokens), sum(each.guesses < 0 for each in tokens)
    age_s, cached = time.monotonic() - session.started_s, min(session.num_shared, prompt)
    return SessionStatus("this server", prompt, len(tokens), age_s, cached, checked, right)._asdict()


def _shown(model: Model) -> dict[str, Any]:
    return shown_plan(model.plan, model.profile)


def why_not_ready(status: dict[str, Any]) -> str:
    """Why no ring stands, as a cluster's status has it; empty where one does."""
    if not status["model"]:
        loading = status["loading"]
        return f"{loading} is being loaded" if loading else str(status["why_none"] or "no model is loaded")
    there = {member["name"] for member in status["members"] if member["state"] == "present"}
    away = sorted({stage["device"] for stage in status["stages"]} - there)
    return f"{', '.join(away)} cannot be reached, and holds a part of the model" if away else ""
