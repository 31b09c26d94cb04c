"""Devices that work together: started or found, watched, given shards to hold, and ended.

`Cluster.local` starts processes on this machine; `Cluster.connect` finds devices that were started elsewhere. Either is
a context manager, and nothing that it started outlives its block: not after an error, not after Ctrl-C, not when this
process is killed.
"""

from __future__ import annotations

import importlib
import os
import secrets
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from shardnet.checks import whole_number
from shardnet.cluster.arrivals import JOIN_S, join_as_coordinator, wait_for, wait_for_number
from shardnet.cluster.comings import Comings
from shardnet.cluster.deployment import Deployment
from shardnet.cluster.launched import announced_in
from shardnet.cluster.left_model import Keep, LeftModel, LeftSession
from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.loading import check_model, load_model, model_of
from shardnet.cluster.local_workers import MOST_LOCAL_DEVICES, LocalWorkers
from shardnet.cluster.model import Model
from shardnet.cluster.newcomers import Newcomers
from shardnet.cluster.quantises import CanQuantise
from shardnet.cluster.resuming import NOT_BACK, Resumed, blueprint_again, go_on_without, open_again, stand_again
from shardnet.cluster.survey import Surveyor
from shardnet.cluster.watch import Watch
from shardnet.device.process import MOST_THREADS
from shardnet.errors import BadRequest, ClusterError, PlanNotInForce
from shardnet.loader import ModelFiles
from shardnet.options import takes
from shardnet.policy.membership import Came, Ended
from shardnet.process.forks import Birthplace
from shardnet.process.lasting import default_folder, folder_of, is_running
from shardnet.profiling.cores import max_threads
from shardnet.progress import Progress, in_turn, shown, silent
from shardnet.shipping.dispatch import Dispatch
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, StageKey, Tokens
from shardnet.transport.shipping_messages import FetchProgress
from shardnet.transport.source_messages import COORDINATOR

ANSWER_S = 10.0
"""How long a cluster that should be running already may take to answer."""
LEAVE_S = 2.0
NEWCOMER_S = 60.0
"""How long one that leaves waits for those that are being measured."""


class Cluster(CanQuantise):
    """The devices that this process coordinates. Make one with `local` or `connect`; a process holds one at a time."""

    def __init__(
        self, transport: Transport, devices: Sequence[str], resources: ExitStack, workers: LocalWorkers | None
    ) -> None:
        self.devices = tuple(devices)
        """In the order in which they get shards: those that were there at the start, or were taken in since."""
        self._transport = transport
        self._started = self.devices if workers is not None else ()
        self._epoch = secrets.token_bytes(16)
        self._deployments: tuple[Deployment, ...] = ()
        self._lock = threading.Lock()
        self._surveyor = Surveyor(transport)
        self._dispatch = Dispatch(transport)
        self.keep: Keep | None = None
        """Set where loaded models are to outlive this process."""
        self.leaves_models = False
        """Whether what is on devices stays there when this is closed: for the process that comes after."""
        self._birthplace = Birthplace("this cluster")
        self._is_closed = False
        self._evictions: list[threading.Thread] = []
        transport.expose("holds", lambda ring_id: self._deployment_of(ring_id) is not None)
        transport.expose("tokens", self._on_tokens)
        transport.expose("session_failed", self._on_session_failed)
        transport.expose("stage_failed", self._on_stage_failed)
        transport.expose("hop_failed", self._on_hop_failed)
        transport.expose("hop_late", self._on_hop_late)
        transport.expose("load_progress", self._on_load_progress)
        transport.expose("profile_progress", self._on_profile_progress)
        transport.expose("fetch_progress", self._on_fetch_progress)
        how_it_ended: Callable[[], dict[str, str]] = dict
        if workers is not None:
            how_it_ended = workers_that_ended(workers)
        self.on_suspected: Callable[[str, str], object] = lambda device, why: None
        """Told of a device and why it is suspected, and with no reason when it is no more."""
        self._watch = Watch(transport, self.devices, how_it_ended, self._on_lost, self._on_stages, self._on_suspected)
        self._newcomers = Newcomers(self._surveyor, self._watch.lost)
        if workers is not None:
            workers.on_ended = self._watch.look
        self._resources = resources.pop_all()  # the caller's until it stands
        self._resources.callback(self._dispatch.close)

    @classmethod
    def local(
        cls,
        num_devices: int = 3,
        *,
        threads_per_device: int | None = None,
        log_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Cluster:
        """Start devices as processes on this machine.

        Args:
            threads_per_device: compute threads of each; None shares the cores among them.
            log_dir: where their output goes; a temporary folder if None.
            progress: told how far the start is; None shows a bar on a terminal.

        Raises:
            BadRequest: `num_devices` or `threads_per_device` is below 1 or beyond any machine or what
                `ulimit -n` allows, or `log_dir` cannot be written.
            JoinFailed: a process ended before it had joined; says what it printed.
            UsageError: this process holds a cluster already, or was forked from one that does.
        """
        num_devices = whole_number("the number of devices", num_devices, least=1, most=MOST_LOCAL_DEVICES)
        if threads_per_device is None:
            threads = max(1, max_threads() // num_devices)
        else:
            threads = whole_number("the number of threads", threads_per_device, least=1, most=MOST_THREADS)
        names = [f"device-{index}" for index in range(num_devices)]
        with ExitStack() as resources, shown(progress) as told:
            door = resources.enter_context(serve_door())
            workers = resources.enter_context(
                LocalWorkers(door.endpoint, names, threads, None if log_dir is None else Path(log_dir))
            )
            transport = resources.enter_context(RpcTransport.join(door.endpoint, COORDINATOR, timeout_s=JOIN_S))
            importlib.import_module("transformers.modeling_layers")  # a load will need it; the devices start meanwhile
            wait_for(transport, names, told, workers)
            return cls(transport, names, resources, workers)

    @classmethod
    def connect(
        cls, endpoint: str | Path | None = None, *, num_devices: int | None = None, progress: Progress | None = None
    ) -> Cluster | RunningCluster:
        """Coordinate the devices that meet at `endpoint`, such as those that `shardnet-run` started; or use a cluster
        that another process coordinates, as `shardnet up` does.

        Args:
            endpoint: where the door is that they joined by: "HOST:PORT", or "unix:PATH" on this machine, or the state
                folder of a cluster that was started by `shardnet up`; None takes what `shardnet-run` has announced to
                its script (see `launched`), or else the cluster in the default state folder, where one runs.
            num_devices: how many to wait for; None takes those that are there, or all that `shardnet-run` started.

        Raises:
            BadRequest: no endpoint is given, and none was announced.
            JoinFailed: the endpoint does not answer, or too few devices came.
            UsageError: as for `local`.
        """
        if endpoint is None:
            announced = announced_in(os.environ)
            if announced is None and is_running(default_folder()):
                return RunningCluster.connect(default_folder(), num_devices=num_devices, progress=progress)
            if announced is None:
                raise BadRequest(
                    "there is no cluster to connect to. Give an endpoint such as 127.0.0.1:29500, start the script "
                    "with shardnet-run, or start a cluster by shardnet up."
                )
            endpoint = announced.endpoint
            num_devices = announced.num_devices if num_devices is None else num_devices
        if num_devices is not None:
            num_devices = whole_number("the number of devices", num_devices, least=1)
        folder = folder_of(endpoint)
        if folder is not None:
            return RunningCluster.connect(folder, num_devices=num_devices, progress=progress)
        with ExitStack() as resources, shown(progress) as told:
            transport = resources.enter_context(join_as_coordinator(str(endpoint), ANSWER_S))
            names = wait_for_number(transport, num_devices, told)
            cluster = cls(transport, names, resources, None)
        Comings(transport, names, cluster.take_in, cluster.let_go)
        return cluster

    @takes(LoadOptions)
    def load(self, model: str | Path | ModelFiles, **options: Any) -> Model:
        """Place a model over the devices and load it.

        Args:
            model: a folder in Hugging Face layout, a `.gguf` file, a hub id, or the name of an embedded model; or what
                `open_model` gave for one of these in the same dtype, where it was opened before devices were started.

        Raises:
            ModelNotFound, UnsupportedModel, DamagedCheckpoint, BadRequest, DoesNotFit, DeviceLost.
        """
        self._check_open()
        devices = [device for device in self.devices if device not in self._watch.lost]
        if not devices:
            raise ClusterError("every device of this cluster is lost. Start a new one.")
        asked = LoadOptions(**options)
        check_model(model, asked.dtype, asked.weights)
        with shown(asked.progress) as caller, in_turn(caller) as told:  # devices tell it on threads that must not wait
            deployment = Deployment(self._dispatch, self._epoch, told, self._forget, self.keep)
            self._remember(deployment)
            try:
                loaded = load_model(deployment, model, devices, self._surveyor, asked)
                self._newcomers.take_late_into(deployment, self.devices)
                return loaded
            except BaseException as error:
                try:
                    cause = deployment.verdict(error)
                finally:  # Ctrl-C may come while that is waited for
                    deployment.close()
                if cause is error:
                    raise
                raise cause from error

    def resume(
        self, left: LeftModel, opened: ModelFiles, options: LoadOptions, sessions: Sequence[LeftSession]
    ) -> Resumed:
        """Go on with a model that another coordinator has left on the devices, and with sessions of it.

        Args:
            opened: the files of the model, which was loaded with these `options`.

        Raises:
            ClusterError: its files are others now, or no device has anything of it any more.
            DoesNotFit, DeviceLost: what is gone finds no room.
        """
        self._check_open()
        blueprint = blueprint_again(self._dispatch, left, opened, options)
        found = open_again(self._transport, left, blueprint, sessions, self._check_open)
        deployment = Deployment(self._dispatch, left.epoch, silent, self._forget, self.keep)
        restored = stand_again(deployment, found, blueprint, sessions)
        self._remember(deployment)
        lost = dict.fromkeys(found.gone, NOT_BACK) | self.lost  # the watch may have told before
        go_on_without(deployment, lost, lambda: self.suspected, found.ready)
        self._newcomers.take_late_into(deployment, self.devices)
        model = model_of(deployment, blueprint.files, opened.tokenizer(), left.context_tokens)
        return Resumed(model, restored, found.num_new)

    def take_in(self, device: str) -> None:
        """A device has joined: watch it. The models that are there may use it, too, as soon as it is measured."""
        with self._lock:
            self.devices = (*(each for each in self.devices if each != device), device)
            devices, deployments = self.devices, self._deployments
        self._watch.tell(Came(device))
        for deployment in deployments:
            self._newcomers.take_into(deployment, device, devices)

    def held_by(self, device: str) -> str:
        """What a device holds, in words; empty where that is nothing."""
        return "; ".join(filter(None, (each.held_by(device) for each in self._deployments)))

    def drain(self, device: str, leaving: Collection[str] = ()) -> str:
        """Have others take over what a device holds, who has just come among them, before it leaves. See `draining`."""
        self._newcomers.settle(NEWCOMER_S)
        return "; ".join(filter(None, [each.drain(device, leaving) for each in self._deployments]))

    def let_go(self, device: str, how: str) -> None:
        """A device has left, or its process has ended. Args: `how`, in words that follow its name and "is lost"."""
        with self._lock:
            self.devices = tuple(each for each in self.devices if each != device)
        self._watch.tell(Ended(device, how))

    @property
    def lost(self) -> dict[str, str]:
        """The devices that were lost, each with the reason, as far as none has come under its name since."""
        return dict(self._watch.lost)

    @property
    def suspected(self) -> frozenset[str]:
        """Those that are silent now."""
        return frozenset(self._watch.suspected)

    def describe(self) -> list[dict[str, Any]]:
        """What each living device is and has now."""
        self._check_open()
        living = [device for device in self.devices if device not in self._watch.lost]
        asked = [self._transport.call(device, "describe", timeout_s=10.0) for device in living]
        return [answer.result()._asdict() for answer in asked]

    def close(self) -> None:
        """End what this cluster started; devices that were found wait for the next one. Safe to call twice."""
        if not self._birthplace.is_here:  # a forked child leaves the block that it was forked in
            return
        self._is_closed = True
        try:
            self._watch.close()
            for eviction in self._evictions:  # none begins any more
                eviction.join()
            for deployment in () if self.leaves_models else self._deployments:
                deployment.close()
            living = [device for device in self._started if device not in self._watch.lost]
            told = {device: self._transport.post(device, "leave", timeout_s=LEAVE_S) for device in living}
            wait([told[device] for device in living if device not in self._watch.suspected], timeout=LEAVE_S)
        finally:
            self._resources.close()

    def _check_open(self) -> None:
        self._birthplace.check()
        if self._is_closed:
            raise BadRequest("this cluster was closed. Make a new one.")

    def __enter__(self) -> Cluster:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- endpoints, and what the watch tells ----

    def _deployment_of(self, ring_id: RingId) -> Deployment | None:
        return next((each for each in self._deployments if each.holds(ring_id)), None)

    def _remember(self, deployment: Deployment) -> None:
        with self._lock:
            self._deployments = (*self._deployments, deployment)

    def _forget(self, deployment: Deployment) -> None:
        with self._lock:
            self._deployments = tuple(each for each in self._deployments if each is not deployment)

    def _held(self, ring_id: RingId) -> Deployment:
        """What a stage tells along a ring that is over must not be taken for heard: it is told again along the new one.

        Raises:
            PlanNotInForce: no deployment holds that ring, or holds it any more.
        """
        deployment = self._deployment_of(ring_id)
        if deployment is None:
            raise PlanNotInForce(f"{self._transport.name} holds no ring of plan {ring_id.plan_version}.")
        return deployment

    def _on_tokens(self, tokens: Tokens) -> None:
        self._held(tokens.ring_id).on_tokens(tokens)

    def _on_session_failed(self, ring_id: RingId, session: int, text: str) -> None:
        self._held(ring_id).on_session_failed(session, text)

    def _on_load_progress(self, ring_id: RingId, stage: int, done_bytes: int, total_bytes: int) -> None:
        deployment = self._deployment_of(ring_id)
        if deployment is not None:
            deployment.on_progress(stage, done_bytes, total_bytes)

    def _on_profile_progress(self, device: str, done: float, total: float) -> None:
        for deployment in self._deployments[-1:]:
            deployment.on_profile_progress(device, done, total)

    def _on_fetch_progress(self, ring_id: RingId, fetched: FetchProgress) -> None:
        deployment = self._deployment_of(ring_id)
        if deployment is not None:
            deployment.fetches.tell(fetched)

    def _on_stage_failed(self, ring_id: RingId, stage: int, device: str, text: str) -> None:
        deployment = self._held(ring_id)
        self._watch.suspect(device, partial(deployment.on_stage_failed, stage, device, text))

    def _on_hop_failed(self, ring_id: RingId, stage: int, device: str, text: str) -> None:
        deployment = self._held(ring_id)
        self._watch.suspect(device, partial(deployment.on_hop_failed, ring_id, stage, device, text))

    def _on_hop_late(self, ring_id: RingId, stage: int, device: str, text: str) -> None:
        deployment = self._held(ring_id)
        self._watch.suspect(device, partial(deployment.on_hop_late, ring_id, stage, device, text))

    def _on_stages(self, device: str, present: Collection[StageKey], asked_s: float) -> None:
        for deployment in self._deployments:
            deployment.check_stages(device, present, asked_s)

    def _on_suspected(self, device: str, why: str) -> None:
        for deployment in self._deployments:
            deployment.suspect(device, why) if why else deployment.trust(device)
        self.on_suspected(device, why)

    def _on_lost(self, device: str, why: str) -> None:
        lost = device, self._transport.number_of(device)  # before anybody hears of it, and another one may come
        for deployment in self._deployments:
            deployment.lose(device, why)
        if device in self._watch.gone:
            return
        # The others may take 2 s to hear of it, and the watch must notice the next death meanwhile.
        eviction = threading.Thread(target=self._strike_off, args=lost, name="shardnet-evict", daemon=True)
        self._evictions = [*(each for each in self._evictions if each.is_alive()), eviction]
        eviction.start()

    def _strike_off(self, device: str, number: int | None) -> None:
        if self._transport.number_of(device) != number:
            return  # another one has come under its name
        with suppress(ClusterError):  # the door is gone, too: the device is off our own list all the same
            self._transport.evict(device)


def workers_that_ended(workers: LocalWorkers) -> Callable[[], dict[str, str]]:
    """A function that tells which of `workers` have ended, and in words how."""
    return lambda: {name: f"its process {workers.how_it_ended(name)}" for name, _ in workers.poll()}
