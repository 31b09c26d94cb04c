"""What is due later, and answers that are waited for until a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from processes import wait_until

from shardnet.errors import CallTimeout
from shardnet.transport.dues import Dues
from shardnet.transport.timers import Timers


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers()
    yield timers
    timers.close()
    timers.close()


def test_what_raises_stops_no_other(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    """Once, it ended the thread, and with it, unseen, every deadline of the process."""
    done: list[str] = []
    timers.after(0.0, lambda: done.append("first"))
    timers.after(0.01, lambda: 1 // 0)
    timers.after(0.02, lambda: done.append("last"))
    wait_until(lambda: done == ["first", "last"], 5)
    assert "what was due failed: ZeroDivisionError" in caplog.text


def test_a_thread_that_cannot_start_is_not_waited_for(timers: Timers, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            timers.after(0.0, int)
    done = threading.Event()
    timers.after(0.0, done.set)
    assert done.wait(5)


def looks_ahead(timers: Timers) -> int:
    return sum(timer.function is not None for _, _, timer in timers._due)


def test_many_answers_are_waited_for_by_one_look(timers: Timers) -> None:
    """Once, each that was due sooner than all others began a look that set up the next one, and none ever ended."""
    dues = Dues("device", timers, int)
    for number in range(50):
        dues.add("endpoint", None, 100.0 - number)
        assert looks_ahead(timers) == 1
    late = dues.add("endpoint", None, 0.01)
    assert late is not None
    with pytest.raises(CallTimeout, match=r"device did not answer 'endpoint' within 0.01 s"):
        late[1].result(5)
    assert looks_ahead(timers) == 1 and len(dues.end()) == 50
    assert looks_ahead(timers) == 0 and dues.add("endpoint", None, 1.0) is None


def test_each_is_late_in_its_time_and_what_was_taken_never(timers: Timers) -> None:
    told: list[float] = []
    dues = Dues("device", timers, lambda: told.append(time.monotonic()))
    added: dict[float, Any] = {timeout_s: dues.add("endpoint", None, timeout_s) for timeout_s in (0.2, 0.05, 0.1)}
    taken = dues.take(added[0.05][0])
    assert taken is not None and taken.answer is added[0.05][1] and dues.take(added[0.05][0]) is None
    begun_s = time.monotonic()
    for timeout_s in (0.1, 0.2):
        with pytest.raises(CallTimeout):
            added[timeout_s][1].result(5)
    assert len(told) == 2 and told[1] - begun_s > 0.15 and not taken.answer.done()
