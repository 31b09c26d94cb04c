"""Answers that broke off, and may be resumed: kept in the notebook, each claimed by one source at a time.

Kept is whatever ends before its source has closed it, but by its own fault: `SessionDesk` says which. Does not know
devices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from shardnet.coordinator.notebook import BrokenPage, Notebook, SessionPage
from shardnet.errors import BadRequest, ClusterError
from shardnet.quantised.schemes import AUTO
from shardnet.transport.session_messages import SampledToken
from shardnet.transport.source_messages import BrokenOff, ModelMark

MOST_KEPT = 100
"""Nobody looks through more; with prompts of 30,000 tokens they take 30 MB of the disk."""
UNSET_S = 1.6e9
"""No clock that is set says less: this was in 2020."""
KEPT_S = 30 * 24 * 3600.0
"""Who has not come back for a month does not wait for the answer, and prompts do not stay on a disk for ever."""


class BrokenSessions:
    """Safe to use from several threads. Writes to the disk: not for who must not wait.

    Args:
        now_s: the time of day, in seconds since 1970.
    """

    def __init__(self, notebook: Notebook, now_s: Callable[[], float] = time.time) -> None:
        self._notebook = notebook
        self._now_s = now_s
        self._pages = {page.number: page for page in notebook.broken_off()}
        self._claims: dict[int, int] = {}
        """The tickets of those who resume them, by their numbers."""
        self._lock = threading.Lock()
        """Held for moments."""
        self._writing = threading.Lock()
        """Held while pages are written and removed, and by whoever changes which there are."""
        self.drop_old()

    def listed(self) -> tuple[BrokenOff, ...]:
        """Those that nobody resumes now, by their numbers."""
        with self._lock:
            pages = [page for page in self._pages.values() if page.number not in self._claims]
        return tuple(_listed(page) for page in sorted(pages, key=lambda page: page.number))

    def number_of(self, session: SessionPage) -> int:
        """That of the answer that a session resumes, or has been kept as already: its coordinator was killed just then.
        0 where there is none.
        """
        return session.number if session.number in self._pages else self.asked_by(session.request.ticket)

    def asked_by(self, ticket: int) -> int:
        """The number of the answer whose last source asked with that ticket. 0 where there is none."""
        with self._lock:
            return next((number for number, page in self._pages.items() if page.request.ticket == ticket), 0)

    def __contains__(self, number: int) -> bool:
        return number in self._pages

    def keep(self, number: int, session: SessionPage, answer: tuple[SampledToken, ...]) -> int:
        """A session has broken off. Its number; 0 where it cannot be written down: what is not on the disk must not be
        promised. One that was resumed and forgotten meanwhile is not kept again.

        Args:
            number: that of the answer that it resumed; 0 where it resumed none.
        """
        with self._writing:
            known = self._pages.get(number)
            if number and known is None:
                return number
            number = number or self._notebook.number(max(self._pages, default=0))
            answer = _longer(answer, session.answer if known is None else known.answer)
            page = BrokenPage(number, session.request, session.mark, answer, self._now_s())
            if not self._notebook.keep_broken_off(page):
                return 0 if known is None else number  # what was written down before is there
            with self._lock:
                self._pages[number] = page
            for oldest in self._unclaimed()[: max(0, len(self._pages) - MOST_KEPT)]:
                self._forget(oldest.number)
        return number

    def claim(self, number: int, ticket: int) -> BrokenPage:
        """It is resumed from now on, until `release`.

        Raises:
            BadRequest: there is none of that number, or it is being resumed.
        """
        with self._lock:
            page = self._pages.get(number)
            if page is None:
                raise BadRequest(f"no answer that broke off has the number {number}. {_there_are(list(self._pages))}")
            if self._claims.setdefault(number, ticket) != ticket:
                raise BadRequest(f"answer {number} is being resumed already. Read it there, or end that first.")
        return page

    def release(self, number: int, ticket: int) -> None:
        """That one does not resume it any more."""
        with self._lock:
            if self._claims.get(number) == ticket:
                del self._claims[number]

    def forget(self, number: int) -> None:
        """Remove it. None of that number is done already.

        Raises:
            ClusterError: its page cannot be removed. Then it stays.
        """
        with self._writing:
            page = self._pages.get(number)
            if page is None or self._forget(number):
                return
            with self._lock:
                self._pages[number] = page
        raise ClusterError(f"answer {number} cannot be removed from the disk. Look at the state folder and its disk.")

    def drop_old(self) -> None:
        """Remove those that broke off long ago. Where the clock was not set then, as on a board without a battery, it
        was when the clock is known to be set."""
        now_s = self._now_s()
        with self._lock:
            for number, page in self._pages.items():
                if page.at_s < UNSET_S <= now_s:
                    self._pages[number] = page._replace(at_s=now_s)
        oldest_s = now_s - KEPT_S
        if all(page.at_s >= oldest_s for page in self._unclaimed()):
            return
        with self._writing:
            for page in self._unclaimed():
                if page.at_s < oldest_s:
                    self._forget(page.number)

    def command(self, number: int) -> str:
        """What resumes it."""
        return f"shardnet resume {number}{self._notebook.as_option}"

    def _unclaimed(self) -> list[BrokenPage]:
        """The oldest first."""
        with self._lock:
            pages = [page for page in self._pages.values() if page.number not in self._claims]
        return sorted(pages, key=lambda page: (page.at_s, page.number))

    def _forget(self, number: int) -> bool:
        """Whether its page is gone."""
        with self._lock:
            self._pages.pop(number, None)
        return self._notebook.forget_broken_off(number)


def check_mark(page: BrokenPage, here: ModelMark) -> None:
    """See that a model may go on with an answer.

    Raises:
        BadRequest: it is another one, so that the answer would be another one.
    """
    wanted = page.mark
    if wanted == here:
        return
    if wanted._replace(checkpoint=here.checkpoint) == here:
        raise BadRequest(
            f"answer {page.number} is of a {wanted.name} with other files than the one that is loaded here."
        )
    raise BadRequest(
        f"answer {page.number} is of {_named(wanted)}, and this cluster holds {_named(here)}. Load that model again."
    )


def _named(mark: ModelMark) -> str:
    wire = "" if mark.wire == mark.dtype else f", {mark.wire} between devices"
    held = "" if mark.weights == AUTO else f", weights {mark.weights}"
    kept = "" if mark.kv_dtype == AUTO else f", keys and values {mark.kv_dtype}"
    return f"{mark.name} ({mark.dtype}{held}{kept}{wire})"


def _there_are(numbers: list[int]) -> str:
    if not numbers:
        return "There is none."
    shown = ", ".join(map(str, sorted(numbers)[-10:]))
    return f"There are {shown}."


def _longer(one: tuple[SampledToken, ...], other: tuple[SampledToken, ...]) -> tuple[SampledToken, ...]:
    return one if len(one) >= len(other) else other


def _listed(page: BrokenPage) -> BrokenOff:
    request = page.request
    return BrokenOff(
        number=page.number,
        model=page.mark,
        prompt_tokens=len(request.prompt_ids),
        num_tokens=len(page.answer),
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        stop=request.stop,
        at_s=page.at_s,
    )
