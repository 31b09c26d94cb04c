"""The coordinator of a cluster that outlives commands: its devices come and go, and sources ask it for everything.

It is one process, which `shardnet up` is. Decides nothing: what is loaded where is up to whoever asks, to the planner
and to `shardnet.policy`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.comings import HAS_ENDED
from shardnet.coordinator.attendance import Attendance
from shardnet.coordinator.desk import SessionDesk
from shardnet.coordinator.events import ClusterEvent, Tell
from shardnet.coordinator.loads import Load, Loads
from shardnet.coordinator.notebook import Notebook
from shardnet.coordinator.once import Once
from shardnet.coordinator.prospects import prospects_of
from shardnet.coordinator.recent_events import RecentEvents
from shardnet.coordinator.recent_work import RecentWork
from shardnet.coordinator.status import Present, status_of
from shardnet.described.clusters import DeviceClass
from shardnet.device.pausing import TOLD_TO
from shardnet.errors import BadRequest, DeviceLost, ShardnetError
from shardnet.foreign.quoting import quoted, shortened
from shardnet.process.threads import on_thread
from shardnet.timeline.stage_report import StageReport, TimelineRecord
from shardnet.transport import RpcTransport
from shardnet.transport.base import Transport
from shardnet.transport.source_messages import (
    COORDINATOR,
    LEASE_S,
    ClusterStatus,
    LoadKeywords,
    LoadState,
    ModelInfo,
)

JOIN_S = 10.0
LOOK_EVERY_S = 0.25
ANSWER_S = 2.0
"""How long a device may take to show that it is not to be struck off, and to take it that it shall leave."""
_log = logging.getLogger(__name__)


class Coordinator:
    """Answers from when it is made; make it before others know of `transport`'s member. A context manager.

    Args:
        transport: of a member called `COORDINATOR`, in a cluster in which nobody has that name.
        tell: told of whatever happens.
        how_it_ended: as `Attendance` takes it.
        lease_s: after so long without its source a session is closed.
        notebook: where what is loaded, and its sessions, are to outlive this process; those of an earlier one go on.
    """

    def __init__(
        self,
        transport: Transport,
        tell: Tell,
        how_it_ended: Callable[[str], str] = lambda device: HAS_ENDED,
        lease_s: float = LEASE_S,
        notebook: Notebook | None = None,
    ) -> None:
        self._transport = transport
        self._recent = RecentEvents(tell)
        self._work = RecentWork(transport)
        self._tell = tell = self._recent.tell
        self._cluster = Cluster(transport, (), ExitStack(), None)
        self._cluster.on_suspected = self._tell_suspected
        self._notebook = notebook
        self._where = "" if notebook is None else notebook.as_option
        self._loads = Loads(transport, self._cluster, tell, notebook)
        self._desk = SessionDesk(self._loads.loaded_soon, tell, lease_s, notebook)
        self._attendance = Attendance(transport, self._cluster, tell, self._loads.look, how_it_ended)
        self._asked: Once[Future[Any]] = Once()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="shardnet-coordinator", daemon=True)
        for endpoint, handler in (
            ("ping", lambda: None),
            ("cluster_status", self.cluster_status),
            ("model_info", self.model_info),
            ("start_session", self._desk.start_session),
            ("follow", self._desk.follow),
            ("read_rows", self._desk.read_rows),
            ("close_session", self._desk.close_session),
            ("broken_off", self._desk.broken_off),
            ("resume_session", self._desk.resume_session),
            ("prompt_of", self._desk.prompt_of),
            ("forget_session", self._desk.forget_session),
            ("load", self._load),
            ("unload", self._unload),
            ("leave", self._leave),
            ("remove", self._strike_off),
            ("pause_device", self._pause_device),
            ("unpause_device", self._unpause_device),
            ("goodbye", self._goodbye),
            ("drain", self._drain),
            ("pause", self._pause),
            ("unpause", self._attendance.unpause),
            ("reports", self._reports),
            ("reset_reports", self._reset_reports),
            ("timeline", self._timeline),
        ):
            transport.expose(endpoint, handler)
        self._thread.start()

    @classmethod
    @contextmanager
    def join(
        cls, endpoint: str, tell: Tell, how_it_ended: Callable[[str], str], notebook: Notebook
    ) -> Iterator[Coordinator]:
        """Be the coordinator of the cluster whose door is at `endpoint`, for as long as the block runs.

        Raises:
            JoinFailed: no door there that lets this process in, or another coordinator is there.
            UsageError: this process is in a cluster already.
        """
        made: list[Coordinator] = []
        try:
            transport = RpcTransport.join(
                endpoint,
                COORDINATOR,
                timeout_s=JOIN_S,
                prepare=lambda here: made.append(cls(here, tell, how_it_ended, notebook=notebook)),
            )
        except BaseException:
            for each in made:
                each.close()
            raise
        with transport, made[0] as coordinator:
            yield coordinator

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that are there now."""
        return self._attendance.devices

    def begin(self, model: str, options: LoadKeywords | dict[str, Any]) -> Load:
        """Go on with what an earlier coordinator has left, or load a model; see `Loads.begin`."""
        return self._loads.begin(model, options, self._desk.left(), self._desk.go_on)

    def load(self, ticket: int, model: str, options: LoadKeywords | dict[str, Any]) -> Load:
        """Load a model over all devices that are there; see `Loads.load`."""
        return self._loads.load(ticket, model, options)

    def one_more(self, kind: DeviceClass, what: str) -> str:
        """What one more device would bring; see `prospects_of`."""
        return prospects_of(self._transport, self.devices, self._loads, kind, what)

    def cluster_status(self) -> Future[ClusterStatus]:
        """Who is there, what is loaded, who talks; see `status_of`."""
        return on_thread("shardnet-status", self.status)

    def model_info(self) -> ModelInfo | Future[ModelInfo]:
        """See `ModelInfo`. Waits, elsewhere, where it is not known yet whether the model of an earlier one goes on."""
        return self._model_info() if self._loads.is_settled else on_thread("shardnet-info", self._model_info)

    def _model_info(self) -> ModelInfo:
        """What a source must know of the model.

        Raises:
            BadRequest: there is none.
            ShardnetError: what has ended it.
        """
        loaded = self._loads.loaded_soon()
        model = loaded.model
        return ModelInfo(
            model=loaded.number,
            checkpoint=model.checkpoint,
            profile=model.profile,
            plan=model.plan,
            events=model.events,
            eos_ids=model.eos_ids,
            context_tokens=model.context_tokens,
        )

    def leave(self, device: str) -> str:
        """Tell a device to leave, when others have taken over what it holds. Waits for it, for seconds.

        Returns:
            In words, who has taken over what, or that nobody can; empty where it held nothing.

        Raises:
            BadRequest: there is none of that name.
            ClusterError: it does not answer.
        """
        self._require(device)
        held = self._cluster.held_by(device)
        self._attendance.goodbye(device)
        try:
            moved = self._drained(device)
            with suppress(DeviceLost):  # it left so quickly that its answer was lost
                self._transport.call(device, "leave", timeout_s=ANSWER_S).result()
        except ShardnetError:
            self._attendance.stays(device)
            raise
        if not held:
            return ""
        return moved or f"nobody else could take over {held} before"

    def pause(self, device: str) -> str:
        """Tell a device to hold nothing until `unpause`. Waits until others have taken over what it holds, for seconds.

        Returns: as `leave`.

        Raises:
            BadRequest: there is none of that name.
            ClusterError: it does not answer.
        """
        self._require(device)
        is_new = self._attendance.pause(device, TOLD_TO)
        held, moved = self._relieved(device) if is_new else ("", "")
        try:
            self._transport.call(device, "pause", True, timeout_s=ANSWER_S).result()
        except ShardnetError:
            if is_new:  # or it pauses by itself, as its battery is low, say
                self._attendance.unpause(device)
            raise
        return moved or (f"nobody else could take over {held}" if held else "")

    def unpause(self, device: str) -> str:
        """Let a device be used again. Returns why it pauses all the same, in words; empty where it does not.

        Raises: as `pause`.
        """
        self._require(device)
        why: str = self._transport.call(device, "pause", False, timeout_s=ANSWER_S).result()
        if not why:
            self._attendance.unpause(device)
        return shortened(why)

    def remove(self, device: str) -> None:
        """Strike off a device that does not answer. Waits for it, for seconds.

        Raises:
            BadRequest: there is none of that name, or it does answer.
            ClusterError: the door does not.
        """
        self._require(device)
        try:
            self._transport.call(device, "describe", timeout_s=ANSWER_S).result()
        except ShardnetError:
            self._transport.evict(device)
        else:
            raise BadRequest(f"{device} answers. Let it leave in order: shardnet leave {device}{self._where}")

    def close(self) -> None:
        """Close all sessions, unload, and let go of the devices, which stay. Safe to call twice."""
        if self._is_closed.is_set():
            return
        self._is_closed.set()
        self._thread.join()
        is_decided = self._loads.is_settled
        self._cluster.leaves_models = not is_decided
        self._desk.close()
        self._loads.close()
        self._cluster.close()
        if self._notebook is not None and is_decided:  # or what was left is still there
            self._notebook.end()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look_after(self) -> None:
        while not self._is_closed.wait(LOOK_EVERY_S):
            try:
                self._desk.look(time.monotonic())
                if self._loads.has_ended():
                    self._loads.look()
            except Exception as error:  # whatever it is, the next look must come
                _log.error("looking after sources failed: %s: %s", type(error).__name__, error)

    def _load(self, ticket: int, model: str, options: LoadKeywords) -> LoadState:
        return self.load(ticket, model, options).state()

    def _unload(self, ticket: int) -> Future[None]:
        return self._asked.begin(ticket, self._loads.unload)

    def _leave(self, ticket: int, device: str) -> Future[str]:
        return self._asked.begin(ticket, lambda: on_thread("shardnet-leave", lambda: self.leave(device)))

    def _pause_device(self, ticket: int, device: str) -> Future[str]:
        return self._asked.begin(ticket, lambda: on_thread("shardnet-pause", lambda: self.pause(device)))

    def _unpause_device(self, ticket: int, device: str) -> Future[str]:
        return self._asked.begin(ticket, lambda: on_thread("shardnet-pause", lambda: self.unpause(device)))

    def _strike_off(self, ticket: int, device: str) -> Future[None]:
        return self._asked.begin(ticket, lambda: on_thread("shardnet-remove", lambda: self.remove(device)))

    def _goodbye(self, device: str) -> str:
        """A device is about to leave: what it holds, in words, which others may take over before."""
        self._attendance.goodbye(device)
        return self._cluster.held_by(device)

    def _drain(self, device: str) -> Future[str]:
        return on_thread("shardnet-drain", lambda: self._drained(device))

    def _pause(self, device: str, why: str) -> Future[str]:
        return on_thread("shardnet-pause", lambda: self._paused(device, shortened(why)))

    def _paused(self, device: str, why: str) -> str:
        """A device pauses. In words, who has taken over what it held; empty where it is known to pause."""
        return self._relieved(device)[1] if self._attendance.pause(device, why) else ""

    def _relieved(self, device: str) -> tuple[str, str]:
        """Do without a device from now on. In words, what it held, and who has taken that over."""
        held = self._cluster.held_by(device)
        moved = self._drained(device) if held else ""
        self._attendance.let_pause(device)
        return held, moved

    def _drained(self, device: str) -> str:
        moved = self._cluster.drain(device, self._attendance.leaving)
        if moved or self._cluster.held_by(device):
            return moved
        return f"others hold what {device} held"

    def _require(self, device: str) -> None:
        if device not in self.devices:
            verb = "There is" if len(self.devices) == 1 else "There are"
            there = f"{verb} {', '.join(self.devices) or 'none'}."
            raise BadRequest(f"no device of this cluster is called {quoted(device)}. {there}")

    def _tell_suspected(self, device: str, why: str) -> None:
        if why:
            self._tell(ClusterEvent("suspected", f"{device} is suspected: {why}.", device=device))
        else:
            self._tell(ClusterEvent("heard again", f"{device} is heard again.", device=device))

    # ---- what the model's devices are asked: on threads of their own ----

    def _reports(self) -> Future[tuple[StageReport, ...]]:
        return on_thread("shardnet-reports", lambda: tuple(self._loads.loaded_soon().model.report()))

    def _reset_reports(self) -> Future[None]:
        return on_thread("shardnet-reports", lambda: self._loads.loaded_soon().model.reset_report())

    def _timeline(self) -> Future[TimelineRecord]:
        return on_thread("shardnet-reports", lambda: self._loads.loaded_soon().model.deployment.timeline().as_record())

    def status(self) -> ClusterStatus:
        """The same. Waits for the devices, for less than a second."""
        status = status_of(
            self._transport,
            Present(self._attendance.devices, self._cluster.suspected, self._attendance.paused),
            self._loads,
            self._attendance.sources,
            self._desk.sessions(),
            self._work,
            self._desk.num_tokens,
        )
        return status._replace(broken_off=self._desk.broken_off(), events=self._recent.all())
