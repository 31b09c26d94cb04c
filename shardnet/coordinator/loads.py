"""Which model a cluster holds: loaded over the devices that are there, one load after the other, when it is asked for.

What was asked for last is *wanted*: where it cannot be held now, it is tried again when a device has joined, and when
the devices that held it were lost.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.left_model import LeftSession
from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.resuming import Resumed
from shardnet.coordinator.events import ClusterEvent, Tell
from shardnet.coordinator.heritage import Heritage
from shardnet.coordinator.loaded import Loaded
from shardnet.coordinator.notebook import Asked, ModelPage, Notebook
from shardnet.coordinator.once import Once
from shardnet.errors import BadRequest, ClusterError, DoesNotFit, ShardnetError, UsageError
from shardnet.foreign.quoting import counted
from shardnet.loader import ModelFiles, open_model
from shardnet.plan import ModelProfile, Plan
from shardnet.process.threads import Errands, on_thread
from shardnet.progress import line_of, silent
from shardnet.session.session import Session
from shardnet.timeline.events import Event
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import LoadState

END_S = 5.0
CLEAR_S = 5.0
"""How long devices may take to end what an earlier coordinator has left, before a model is loaded."""
FIRST = 0
"""The ticket of the first load: those of sources are random."""
NOT_KEPT = ("on_event", "progress")
"""Options of a load that no other process can use."""

GoOn = Callable[[Mapping[int, Session]], object]
"""Told which sessions of an earlier coordinator go on, by their numbers."""


class Load:
    """One load that somebody has asked for."""

    def __init__(self, model: str, options: LoadOptions, ticket: int) -> None:
        self.model = model
        self.options = options
        self.ticket = ticket
        self.done: Future[None] = Future()
        self._progress: dict[str, tuple[str, float, float]] = {}
        """The last that was told, by the line that it is for."""

    def tell(self, what: str, done: float, total: float) -> None:
        """See `Progress`."""
        self._progress[line_of(what)] = (what, done, total)
        if self.options.progress is not None:
            self.options.progress(what, done, total)

    @property
    def asked(self) -> Asked:
        """It as it is written down: without those who are told how far it is."""
        kept = {name: self.options[name] for name in self.options.keys() if name not in NOT_KEPT}  # noqa: SIM118
        folder = kept["cache_dir"]
        return Asked(self.model, {**kept, "cache_dir": None if folder is None else str(folder)})

    def state(self) -> LoadState:
        """How far it is.

        Raises:
            ShardnetError: why it has failed.
        """
        if self.done.done():
            self.done.result()
        return LoadState(self.done.done(), tuple(self._progress.values()))


class Loads:
    """Does one load after the other on a thread of its own.

    Args:
        cluster: the devices; see `Cluster.take_in`.
        tell: told of what is loaded, and what is not.
        notebook: where the model is to outlive this process: then sources, which may have asked the one before, wait
            for `begin`.
    """

    def __init__(self, transport: Transport, cluster: Cluster, tell: Tell, notebook: Notebook | None = None) -> None:
        self._transport = transport
        self._cluster = cluster
        self._tell = tell
        self._asked: Once[Load] = Once()
        self._wanted: Load | None = None
        self.profile: ModelProfile | None = None
        """Of what was loaded last, or could not be."""
        self._loaded: Loaded | None = None
        self._loading = ""
        self._why_none: ShardnetError | None = None
        self._where = "" if notebook is None else notebook.as_option
        self._heritage = Heritage(transport, cluster, notebook)
        self._is_closed = False
        self._is_about_to_try = False
        """The wanted model: an errand that has not begun yet."""
        self._early: list[Callable[[], object]] | None = None if notebook is None else []
        """What was asked before `begin`; None since then."""
        self._lock = threading.Lock()
        self._errands = Errands("shardnet-loads")
        """Its thread alone changes what is loaded."""

    # ---- what is there ----

    @property
    def loading(self) -> str:
        """The name of the model that is being loaded; empty where none is."""
        return self._loading

    @property
    def wanted_options(self) -> LoadOptions | None:
        """How a model is wanted; None where none is."""
        return None if self._wanted is None else self._wanted.options

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
        raise BadRequest(f"this cluster holds no model. Load one: shardnet load MODEL{self._where}")

    def loaded_soon(self) -> Loaded:
        """The same; waits where it is not known yet whether the model of an earlier coordinator goes on."""
        self._heritage.is_settled.wait()
        return self.loaded()

    @property
    def is_settled(self) -> bool:
        """Whether `loaded_soon` does not wait."""
        return self._heritage.is_settled.is_set()

    # ---- what is asked ----

    def begin(self, model: str, options: Mapping[str, Any], sessions: Sequence[LeftSession], go_on: GoOn) -> Load:
        """Go on with what an earlier coordinator has left that was begun with the same; where that cannot be, load.

        Args:
            sessions: those that it has left.
            go_on: told which of them go on.

        Raises:
            BadRequest: an option is impossible.
        """
        load = Load(model, LoadOptions(**options), FIRST)
        with self._lock:
            early, self._early = self._early, None
            for errand in (partial(self._begin_with, load, sessions, go_on), *(early or ())):
                self._errands.do(errand)
        return load

    def load(self, ticket: int, model: str, options: Mapping[str, Any]) -> Load:
        """Load a model in place of the one that is there. Asked again with the same ticket, it is the same load.

        Raises:
            BadRequest: an option is impossible.
        """
        return self._asked.begin(ticket, lambda: self._begin(Load(model, LoadOptions(**options), ticket)))

    def unload(self) -> Future[None]:
        """Let go of the model, and of what was wanted."""
        done: Future[None] = Future()
        self._do(partial(self._unload_for_good, done))
        return done

    def look(self) -> None:
        """Devices have come or gone: where the wanted model is not there, it may fit by now."""
        with self._lock:
            is_due, self._is_about_to_try = self._is_about_to_try, True
        if not is_due:
            self._errands.do(self._try_wanted)

    def has_ended(self) -> bool:
        """Whether something has ended the model that is there: `look` then loads it again, if it can be."""
        loaded = self._loaded
        try:
            if loaded is not None:
                loaded.model.deployment.sessions.raise_if_ended()
        except ShardnetError as error:
            self._why_none = error
            return True
        return False

    def close(self) -> None:
        """Unload, and load nothing more. Safe to call twice. What an earlier coordinator has left stays, where it is
        not decided yet what goes on.
        """
        is_decided, self._is_closed = self.is_settled, True
        self._heritage.is_settled.set()
        if is_decided:
            self._errands.do(self._unload)
        is_busy = self._loading or not is_decided
        self._errands.end(0.0 if is_busy else END_S)  # whoever closes the cluster ends a load

    def _begin(self, load: Load) -> Load:
        self._do(partial(self._perform, load))
        return load

    def _do(self, errand: Callable[[], object]) -> None:
        """What a source asks for, behind what this cluster begins with."""
        with self._lock:
            if self._early is None:
                self._errands.do(errand)
            else:
                self._early.append(errand)

    # ---- errands ----

    def _begin_with(self, load: Load, sessions: Sequence[LeftSession], go_on: GoOn) -> None:
        resumed: Mapping[int, Session] | None = None
        try:
            self._heritage.begin(load.asked)
            page = self._heritage.page
            if page is not None:
                resumed = self._resume(page, sessions)
        except Exception as error:  # whatever it is, it is loaded anew
            if not self._is_closed:
                self._heritage.forget()
                why = f"What was loaded cannot go on where it was: {_sentence(error)}"
                self._tell(ClusterEvent("not resumed", why))
        if self._is_closed:  # all stays as it is, for who comes after
            return
        self._loading = load.model if resumed is None else ""
        self._heritage.settle()
        go_on(resumed or {})
        if resumed is not None:
            self._heritage.end_what_is_left(wait_s=0.0)
            load.done.set_result(None)  # also where that has ended since
        else:
            self._heritage.end_what_is_left(wait_s=CLEAR_S)
            self._perform(load)

    def _resume(self, page: ModelPage, sessions: Sequence[LeftSession]) -> Mapping[int, Session]:
        """Go on with a model that an earlier coordinator has left."""
        asked = page.asked
        as_asked: dict[str, Any] = asked.options
        again = Load(asked.model, LoadOptions(**as_asked), page.ticket)
        files = open_model(again.model, again.options.dtype, weights=again.options.weights, progress=silent)
        on_thread("shardnet-tokenizer", files.tokenizer)  # it is needed when the sessions go on already
        self._loading = files.name
        options = replace(again.options, progress=silent, on_event=partial(self._hear, files.name))
        self._cluster.keep = self._heritage.keeping(again, page.number)
        resumed = self._cluster.resume(page.left, files, options, sessions)
        self._loaded = Loaded(page.number, resumed.model, again.options.wire, again.options.weights)
        self._wanted = again
        again.done.set_result(None)
        self._asked.begin(page.ticket, lambda: again)
        self._tell(_resumed(files.name, resumed))
        return resumed.sessions

    def _perform(self, load: Load) -> None:
        loaded, wanted = self._loaded, self._wanted
        if loaded is not None and wanted is not None and wanted.ticket == load.ticket and not self.has_ended():
            load.done.set_result(None)  # who asks has not heard that the coordinator before had done it
            return
        if loaded is None:
            self._loading = load.model  # who asks waits: a GGUF file may be converted for a minute, say
        try:
            files = open_model(load.model, load.options.dtype, weights=load.options.weights, progress=load.tell)
        except Exception as error:  # the model that is there stays
            self._loading = ""
            self._fail(load, load.model, error)
            return
        self._unload()
        self._wanted = load
        self._load(load, files)

    def _try_wanted(self) -> None:
        self._is_about_to_try = False
        self._heritage.end_what_is_left(wait_s=0.0)
        if self.has_ended():
            self._unload()
        wanted = self._wanted
        if wanted is None or self._loaded is not None or not self._cluster.devices:
            return
        again = Load(wanted.model, wanted.options, wanted.ticket)
        try:
            files = open_model(again.model, again.options.dtype, weights=again.options.weights, progress=silent)
        except Exception as error:
            self._fail(again, wanted.model, error)
        else:
            self._load(again, files)

    def _load(self, load: Load, files: ModelFiles) -> None:
        """Load what is open. Where there is no room for it now, it stays wanted."""
        self._loading, self._why_none, self.profile = files.name, None, files.profile
        devices = self._cluster.devices
        text = f"{files.name} is being loaded on {counted(len(devices), 'devices')}."
        self._tell(ClusterEvent("loading", text, model=files.name))
        try:
            if not devices:
                what = f"{files.name} needs a device, and none is there"
                raise DoesNotFit(f"{what}. Let one join: shardnet join{self._where}")
            options = replace(load.options, progress=load.tell, on_event=partial(self._hear, files.name))
            number = self._transport.draw("model")
            self._cluster.keep = self._heritage.keeping(load, number)
            model = self._cluster.load(files, **options)
            self._loaded = Loaded(number, model, load.options.wire, load.options.weights)
            self._why_none = None  # the one before may have ended at the last moment
        except Exception as error:
            self._heritage.forget()
            self._fail(load, files.name, error)
        else:
            self._tell(_loaded(files.name, model.plan))
            load.done.set_result(None)
        finally:
            self._loading = ""

    def _hear(self, model: str, event: Event) -> None:
        """What happens to the model that is there. Who comes and goes is told by others."""
        if event.event in ("lost", "suspected"):
            self._tell(ClusterEvent("taken over", f"{event.text}.", device=event.device, model=model))
        elif event.event in ("drained", "rebalanced"):
            self._tell(ClusterEvent("moved", f"{model}: {event.text}.", device=event.device, model=model))
        elif event.event == "fetched":
            self._tell(ClusterEvent("fetched", f"{event.text}.", device=event.device, model=model))
        elif event.event == "recovered":
            text = f"{model} goes on: {event.text}."
            seconds = None if event.seconds is None else round(event.seconds, 3)
            self._tell(ClusterEvent("recovered", text, model=model, seconds=seconds))

    def _fail(self, load: Load, name: str, error: Exception) -> None:
        """A load has come to nothing. What cannot be done as asked is wanted no more."""
        error = _sentence(error)
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
        self._heritage.forget()
        if loaded is not None:
            name = loaded.model.profile.name
            loaded.model.close()
            self._tell(ClusterEvent("unloaded", f"{name} is unloaded.", model=name))


def _sentence(error: Exception) -> ShardnetError:
    if isinstance(error, ShardnetError):
        return error
    return ClusterError(f"the coordinator failed ({type(error).__name__}: {error}).")


def _not_loaded(model: str, error: ShardnetError) -> ClusterEvent:
    return ClusterEvent("not loaded", f"{model} is not loaded: {error}", model=model)


def _loaded(model: str, plan: Plan) -> ClusterEvent:
    return ClusterEvent("loaded", f"{model} is loaded: {_holds(plan)}.", model=model, plan_version=plan.version)


def _resumed(model: str, resumed: Resumed) -> ClusterEvent:
    """Says also what had to be loaded: nothing, where all devices are there."""
    plan = resumed.model.plan
    sessions = f", with {counted(len(resumed.sessions), 'sessions')}" if resumed.sessions else ""
    loaded = f"; {counted(resumed.num_new, 'stages')} had to be loaded" if resumed.num_new else ""
    text = f"{model} goes on where it was: {_holds(plan)}{sessions}{loaded}."
    return ClusterEvent("resumed", text, model=model, plan_version=plan.version)


def _holds(plan: Plan) -> str:
    return ", ".join(f"units {stage.first_unit}-{stage.last_unit} on {stage.device}" for stage in plan.stages)
