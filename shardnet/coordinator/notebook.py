"""What a coordinator writes down in its state folder for the one that comes after it, should it be killed.

Each page is a file of its own, written whole or not at all, with a sum by which a damaged one is noticed. A coordinator
that ends in order leaves none but those of answers that broke off.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from shardnet.cluster.left_model import LeftModel, LeftStage
from shardnet.errors import UsageError
from shardnet.foreign.plain_files import read_bytes
from shardnet.plan import DeviceProfile, Link
from shardnet.process.lasting import as_option, how_to_start
from shardnet.process.state_folder import StateFolder
from shardnet.transport.session_messages import SampledToken, SessionSpec
from shardnet.transport.source_messages import LoadKeywords, ModelMark, SessionRequest
from shardnet.transport.wire.reader import Reader
from shardnet.transport.wire.registered import LAYOUTS
from shardnet.transport.wire.schema import Layout, mark_of
from shardnet.transport.wire.values import Undecodable, Unsendable
from shardnet.transport.wire.writer import Writer

BEGUN = "begun.page"
MODEL = "model.page"
SESSIONS = "session-*.page"
BROKEN_OFF = "broken-*.page"
NUMBER = "number.page"
MOST_BYTES = 2**26
"""Of a page: a thousand devices and their links have less."""
LATEST_S = 2.0**40
"""When an answer may have broken off, in seconds since 1970: so far, days can be shown."""
_SUM_BYTES = 32
Page = TypeVar("Page")
_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A load, as somebody has asked for it."""

    model: str
    options: LoadKeywords


class ModelPage(NamedTuple):
    """The model that is there."""

    first: Asked
    """What the coordinator was started with: one that is started with something else loads that."""
    asked: Asked
    ticket: int
    """Of whoever asked for it."""
    number: int
    """By which sources know it."""
    left: LeftModel


class SessionPage(NamedTuple):
    """A session of a source."""

    request: SessionRequest
    spec: SessionSpec
    mark: ModelMark
    number: int
    """Of the answer that it resumes; 0 for one that was begun anew."""
    answer: tuple[SampledToken, ...]
    """All of it, where it has ended; before, what it was begun with."""


class BrokenPage(NamedTuple):
    """An answer that broke off; see `BrokenOff`."""

    number: int
    request: SessionRequest
    """As its last source has asked."""
    mark: ModelMark
    answer: tuple[SampledToken, ...]
    """What is known of it."""
    at_s: float


def is_whole(answer: Sequence[SampledToken]) -> bool:
    """Whether its last token is there."""
    return bool(answer) and answer[-1].finish_reason != ""


class Notebook:
    """Safe to use from several threads. What cannot be written is logged, and no later process knows of it."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._lock = threading.Lock()
        self.was_left = self._path(BEGUN).exists()
        """Whether another coordinator was here before, and did not end in order."""
        self._write(BEGUN, ())

    def model(self) -> ModelPage | None:
        """What the one before has written of the model; None where none was there.

        Raises:
            UsageError: the page is damaged, or of another version.
        """
        path = self._path(MODEL)
        if not path.exists():
            return None
        value = _value_in(_content_of(path), path)
        try:
            first, asked, ticket, number, left = value
            return ModelPage(Asked(*first), Asked(*asked), ticket, number, _left_model(*left))
        except (TypeError, ValueError) as cause:
            raise _damaged(path) from cause

    def sessions(self) -> list[SessionPage]:
        """Those that the one before has left. Pages that are damaged are passed over, and removed."""
        return self._pages(SESSIONS, SessionPage, lambda page: _session_name(page.request.ticket))

    def broken_off(self) -> list[BrokenPage]:
        """The answers that broke off, with this coordinator or another one; likewise."""
        return self._pages(BROKEN_OFF, BrokenPage, _name_of_broken)

    def _pages(self, names: str, kind: type[Page], name_of: Callable[[Page], str]) -> list[Page]:
        found = []
        for path in sorted(self._state.path.glob(names)):
            try:
                content = _content_of(path)
            except UsageError as error:  # of the disk, say: it may be read another time
                _log.warning("A session is passed over: %s", error)
                continue
            try:
                page: Page = _value_in(content, path, _LAYOUTS[kind])
                if path.name != name_of(page):  # somebody's copy of another one
                    raise _damaged(path)
            except UsageError as error:
                _log.warning("A session is forgotten: %s", error)
                self._remove(path.name)
            else:
                found.append(page)
        return found

    def keep_model(self, page: ModelPage) -> None:
        """Write down what is there now, in place of what was."""
        left = page.left
        plain = (
            left.checkpoint,
            left.epoch,
            left.deployment,
            tuple(astuple(device) for device in left.devices),
            tuple(astuple(link) for link in left.links),
            left.context_tokens,
            left.codecs,
            left.unit_weights,
            left.predicted_loss,
            left.plan,
            tuple(tuple(stage) for stage in left.stages),
            tuple(tuple(stage) for stage in left.ready),
        )
        self._write(MODEL, (tuple(page.first), tuple(page.asked), page.ticket, page.number, plain))

    def forget_model(self) -> None:
        """None is there any more."""
        self._remove(MODEL)

    def keep_session(self, page: SessionPage) -> None:
        """Write down one that has begun or, with its answer, ended."""
        self._write(_session_name(page.request.ticket), page)

    def forget_session(self, ticket: int) -> None:
        """Its source has all of it, or is gone."""
        self._remove(_session_name(ticket))

    def number(self, above: int) -> int:
        """For an answer that broke off: one that none has had, unless what was written down of it is damaged, and in
        any case above one.
        """
        try:
            [last] = _value_in(_content_of(self._path(NUMBER)), self._path(NUMBER))
            number = max(above, int(last)) + 1
        except (UsageError, TypeError, ValueError):  # the first one, or damaged
            number = above + 1
        self._write(NUMBER, (number,))
        return number

    def keep_broken_off(self, page: BrokenPage) -> bool:
        """Write down an answer that broke off, in place of what was known of it. Whether that could be done."""
        return self._write(_broken_name(page.number), page)

    def forget_broken_off(self, number: int) -> bool:
        """It is over, or nobody wants it any more. Whether its page is gone."""
        return self._remove(_broken_name(number))

    @property
    def as_option(self) -> str:
        """What commands need to mean this state folder."""
        return as_option(self._state.path)

    @property
    def how_to_start(self) -> str:
        """The command that starts the cluster in it again."""
        return how_to_start(self._state.path)

    def end(self) -> None:
        """The cluster ends in order: nobody comes after who goes on. What broke off stays."""
        for path in (self._path(MODEL), self._path(BEGUN), *self._state.path.glob(SESSIONS)):
            self._remove(path.name)

    def _path(self, name: str) -> Path:
        return self._state.path / name

    def _write(self, name: str, value: Any) -> bool:
        try:
            body = _written(value)
            with self._lock:
                self._state.write(name, hashlib.sha256(body).digest() + body)
        except (OSError, Unsendable) as error:
            _log.error("%s cannot be written, and no later process will know of it: %s", self._path(name), error)
            return False
        return True

    def _remove(self, name: str) -> bool:
        with self._lock, suppress(OSError):  # it is not there, or the disk can only be read
            self._state.remove(name)
        return not os.path.lexists(self._path(name))


def _session_name(ticket: int) -> str:
    return f"session-{ticket:016x}.page"


def _broken_name(number: int) -> str:
    return f"broken-{number:08d}.page"


def _name_of_broken(page: BrokenPage) -> str:
    """Empty where it says something impossible: a day that is none would end every `shardnet status`, and the number 0
    would be taken for that of all answers that were not kept."""
    is_possible = page.number > 0 and 0 <= page.at_s <= LATEST_S
    return _broken_name(page.number) if is_possible else ""


_LAYOUTS: dict[type, Layout] = {kind: Layout(kind) for kind in (SessionPage, BrokenPage)}


def _written(value: Any) -> bytes:
    writer = Writer()
    if type(value) in _LAYOUTS:
        writer.write_fields(_LAYOUTS[type(value)], value)
    else:
        writer.write(value)
    return writer.joined(_mark())


def _mark() -> bytes:
    """Bytes that differ where what is written would be read as something else."""
    return mark_of((*LAYOUTS, *_LAYOUTS.values()))


def _content_of(path: Path) -> bytes:
    """
    Raises:
        UsageError: it cannot be read now.
    """
    return read_bytes(path, MOST_BYTES, "the page", UsageError)


def _value_in(content: bytes, path: Path, layout: Layout | None = None) -> Any:
    """What a page says: a page of that layout, or any value.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    found, body = content[:_SUM_BYTES], content[_SUM_BYTES:]
    mark = _mark()
    if hashlib.sha256(body).digest() != found or not body.startswith(mark):
        raise _damaged(path)
    reader = Reader(body, len(mark))
    try:
        return reader.read() if layout is None else reader.read_message_of(layout)
    except (Undecodable, ValueError) as cause:
        raise _damaged(path) from cause


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged, or of another version of shardnet.")


def _left_model(
    checkpoint: str,
    epoch: bytes,
    deployment: int,
    devices: tuple[tuple[Any, ...], ...],
    links: tuple[tuple[Any, ...], ...],
    context_tokens: int,
    codecs: tuple[tuple[int, str], ...],
    unit_weights: tuple[str, ...],
    predicted_loss: float | None,
    plan: Any,
    stages: tuple[tuple[Any, ...], ...],
    ready: tuple[tuple[Any, ...], ...],
) -> LeftModel:
    return LeftModel(
        checkpoint,
        epoch,
        deployment,
        tuple(DeviceProfile(*device) for device in devices),
        tuple(Link(*link) for link in links),
        context_tokens,
        codecs,
        unit_weights,
        predicted_loss,
        plan,
        tuple(LeftStage(*stage) for stage in stages),
        tuple(LeftStage(*stage) for stage in ready),
    )
