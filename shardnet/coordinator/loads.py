"""Which model a cluster holds: loaded over the devices that are there, one load after the other, when it is asked for.

What was asked for last is *wanted*: where it cannot be held now, it is tried again when a device has joined, and when
the devices that held it were lost.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.load_options import LoadOptions
from shardnet.coordinator.events import ClusterEvent, Tell
from shardnet.coordinator.loaded import Loaded
from shardnet.coordinator.once import Once
from shardnet.errors import BadRequest, ClusterError, DoesNotFit, ShardnetError, UsageError
from shardnet.foreign.quoting import counted
from shardnet.loader import ModelFiles, open_model
from shardnet.plan import Plan
from shardnet.process.threads import Errands
from shardnet.progress import silent
from shardnet.timeline.events import Event
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import LoadState

END_S = 5.0


class Load:
    """One load that somebody has asked for."""

    def __init__(self, model: str, options: LoadOptions) -> None:
        self.model = model
        self.options = options
        self.done: Future[Loaded] = Future()
        self._progress: dict[str, tuple[float, float]] = {}

    def tell(self, what: str, done: float, total: float) -> None:
        """See `Progress`."""
        self._progress[what] = (done, total)
        if self.options.progress is not None:
            self.options.progress(what, done, total)

    def state(self) -> LoadState:
        """How far it is.

        Raises:
            ShardnetError: why it has failed.
        """
        if self.done.done():
            self.done.result()
        progress = tuple((what, *how_far) for what, how_far in list(self._progress.items()))
        return LoadState(self.done.done(), progress)


class Loads:
    """Does one load after the other on a thread of its own.

    Args:
        cluster: the devices; see `Cluster.take_in`.
        tell: told of what is loaded, and what is not.
    """

    def __init__(self, transport: Transport, cluster: Cluster, tell: Tell) -> None:
        self._transport = transport
        self._cluster = cluster
        self._tell = tell
        self._asked: Once[Load] = Once()
        self._wanted: Load | None = None
        self._loaded: Loaded | None = None
        self._loading = ""
        self._why_none: ShardnetError | None = None
        self._errands = Errands("shardnet-loads")
        """Its thread alone changes what is loaded."""

    # ---- what is there ----

    @property
    def loading(self) -> str:
        """The name of the model that is being loaded; empty where none is."""
        return self._loading

    @property
    def why_none(self) -> str:
        """Why the wanted model is not there, if it is not."""
        return "" if self._why_none is None else str(self._why_none)

    def loaded(self) -> Loaded:
        """The model of now.

        Raises:
            BadRequest: there is none.
            ShardnetError: what has ended it.
        """
        loaded = self._loaded
        if loaded is not None:
            loaded.model.deployment.sessions.raise_if_ended()
            return loaded
        if self._loading:
            raise BadRequest(f"{self._loading} is being loaded. Ask again when it is there.")
        if self._why_none is not None:
            raise copy.copy(self._why_none)
        raise BadRequest("this cluster holds no model. Load one: shardnet load MODEL")

    # ---- what is asked ----

    def load(self, ticket: int, model: str, options: Mapping[str, Any]) -> Load:
        """Load a model in place of the one that is there. Asked again with the same ticket, it is the same load.

        Raises:
            BadRequest: an option is impossible.
        """
        return self._asked.begin(ticket, lambda: self._begin(Load(model, LoadOptions(**options))))

    def unload(self) -> Future[None]:
        """Let go of the model, and of what was wanted."""
        done: Future[None] = Future()
        self._errands.do(partial(self._unload_for_good, done))
        return done

    def look(self) -> None:
        """Devices have come or gone: where the wanted model is not there, it may fit by now."""
        self._errands.do(self._try_wanted)

    def has_ended(self) -> bool:
        """Whether something has ended the model that is there: `look` then loads it again, if it can be."""
        try:
            if self._loaded is not None:
                self._loaded.model.deployment.sessions.raise_if_ended()
        except ShardnetError as error:
            self._why_none = error
            return True
        return False

    def close(self) -> None:
        """Unload, and load nothing more. Safe to call twice."""
        self._errands.do(self._unload)
        self._errands.end(0.0 if self._loading else END_S)  # whoever closes the cluster ends a load

    def _begin(self, load: Load) -> Load:
        self._errands.do(partial(self._perform, load))
        return load

    # ---- errands ----

    def _perform(self, load: Load) -> None:
        try:
            files = open_model(load.model, load.options.dtype, progress=load.tell)
        except Exception as error:  # the model that is there stays
            self._fail(load, load.model, error)
            return
        self._unload()
        self._wanted = load
        self._load(load, files)

    def _try_wanted(self) -> None:
        if self.has_ended():
            self._unload()
        wanted = self._wanted
        if wanted is None or self._loaded is not None or not self._cluster.devices:
            return
        again = Load(wanted.model, wanted.options)
        try:
            files = open_model(again.model, again.options.dtype, progress=silent)
        except Exception as error:
            self._fail(again, wanted.model, error)
        else:
            self._load(again, files)

    def _load(self, load: Load, files: ModelFiles) -> None:
        """Load what is open. Where there is no room for it now, it stays wanted."""
        self._loading, self._why_none = files.name, None
        devices = self._cluster.devices
        text = f"{files.name} is being loaded on {counted(len(devices), 'devices')}."
        self._tell(ClusterEvent("loading", text, model=files.name))
        try:
            if not devices:
                raise DoesNotFit(f"{files.name} needs a device, and none is there. Let one join: shardnet join")
            options = replace(load.options, progress=load.tell, on_event=partial(self._hear, files.name))
            model = self._cluster.load(files, **options)
            loaded = self._loaded = Loaded(self._transport.draw("model"), model)
            self._why_none = None  # the one before may have ended at the last moment
        except Exception as error:
            self._fail(load, files.name, error)
        else:
            self._tell(_loaded(files.name, model.plan))
            load.done.set_result(loaded)
        finally:
            self._loading = ""

    def _hear(self, model: str, event: Event) -> None:
        """What happens to the model that is there. Who comes and goes is told by others."""
        if event.event in ("lost", "suspected"):
            self._tell(ClusterEvent("taken over", f"{event.text}.", device=event.device, model=model))
        elif event.event == "recovered":
            self._tell(ClusterEvent("recovered", f"{model} goes on: {event.text}.", model=model))

    def _fail(self, load: Load, name: str, error: Exception) -> None:
        """A load has come to nothing. What cannot be done as asked is wanted no more."""
        if not isinstance(error, ShardnetError):
            error = ClusterError(f"the coordinator failed ({type(error).__name__}: {error}).")
        if load is self._wanted and isinstance(error, UsageError):
            self._wanted = None
        if self._loaded is None:
            self._why_none = error
        self._tell(_not_loaded(name, error))
        load.done.set_exception(error)

    def _unload_for_good(self, done: Future[None]) -> None:
        self._wanted, self._why_none = None, None
        try:
            self._unload()
        finally:
            done.set_result(None)

    def _unload(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            name = loaded.model.profile.name
            loaded.model.close()
            self._tell(ClusterEvent("unloaded", f"{name} is unloaded.", model=name))


def _not_loaded(model: str, error: ShardnetError) -> ClusterEvent:
    return ClusterEvent("not loaded", f"{model} is not loaded: {error}", model=model)


def _loaded(model: str, plan: Plan) -> ClusterEvent:
    holds = ", ".join(f"units {stage.first_unit}-{stage.last_unit} on {stage.device}" for stage in plan.stages)
    return ClusterEvent("loaded", f"{model} is loaded: {holds}.", model=model, plan_version=plan.version)
