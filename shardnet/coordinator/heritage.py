"""One coordinator comes after another that was killed: what that one has left goes on, or is ended on all devices."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Protocol

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.left_model import Keep, LeftModel
from shardnet.coordinator.notebook import Asked, ModelPage, Notebook
from shardnet.transport.base import Transport

ANSWER_S = 10.0


class AskedFor(Protocol):
    """A load."""

    ticket: int

    @property
    def asked(self) -> Asked:
        """What was asked."""


class Heritage:
    """All but `is_settled` and `keeping` is for the thread that loads.

    Args:
        notebook: None where nothing is to outlive this process.
    """

    def __init__(self, transport: Transport, cluster: Cluster, notebook: Notebook | None) -> None:
        self.is_settled = threading.Event()
        """Whether it is known what becomes of a model that was left."""
        self.page: ModelPage | None = None
        """The model that was left, where it is to go on."""
        self._transport = transport
        self._cluster = cluster
        self._notebook = notebook
        self._first: Asked | None = None
        self._before: int | None = None
        """Plan versions below this one are of earlier coordinators."""
        self._ended_at: set[str] = set()
        """Devices that have nothing of theirs any more."""
        self._written: int | None = None
        """The number of the model that may be written down."""
        self._writing = threading.Lock()
        """Held while the page of the model is written or removed."""
        if notebook is None or not notebook.was_left:
            self.is_settled.set()

    def begin(self, first: Asked) -> None:
        """See what was left by one that was started with the same.

        Raises:
            UsageError: what it has written down is damaged.
        """
        self._first = first
        if self._notebook is None or self.is_settled.is_set():
            return
        self._before = self._transport.draw("plan_version")
        page = self._notebook.model()
        self.page = page if page is not None and page.first == first else None

    def settle(self) -> None:
        """It is decided what goes on."""
        self.page = None
        self.is_settled.set()

    def end_what_is_left(self, wait_s: float) -> None:
        """End, on the devices that are there, what earlier coordinators have left and what does not go on."""
        if self._before is None or self.page is not None:
            return
        asked = []
        for device in self._cluster.devices:
            if device not in self._ended_at:
                answer = self._transport.call(
                    device, "end_stages", self._transport.name, self._before, timeout_s=ANSWER_S
                )
                answer.add_done_callback(partial(self._was_ended, device))
                asked.append(answer)
        wait(asked, timeout=wait_s)

    def keeping(self, load: AskedFor, number: int) -> Keep | None:
        """What writes down the model that is about to be there, until `forget`; None where it ends with this process.

        Args:
            number: by which sources know it.
        """
        if self._notebook is None:
            return None
        with self._writing:
            self._written = number
        return partial(self._keep, self._notebook, load, number)

    def forget(self) -> None:
        """The model is there no more."""
        with self._writing:
            self._written = None
            if self._notebook is not None:
                self._notebook.forget_model()

    def _keep(self, notebook: Notebook, load: AskedFor, number: int, left: LeftModel) -> None:
        first = load.asked if self._first is None else self._first
        with self._writing:
            if self._written == number:
                notebook.keep_model(ModelPage(first, load.asked, load.ticket, number, left))

    def _was_ended(self, device: str, answer: Future[Any]) -> None:
        if answer.exception() is None:
            self._ended_at.add(device)
