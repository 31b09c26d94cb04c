"""Work on threads of its own, for whoever must not wait."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from processes import wait_until

from shardnet.process.threads import Errands


def test_errands_are_done_in_order_and_the_end_waits_for_them(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    with Errands("errands") as errands:
        for number in range(100):
            errands.do(lambda number=number: done.append(number))  # type: ignore[misc]
        errands.do(lambda: 1 // 0)
        errands.do(lambda: done.append(100))
    assert done == list(range(101)) and "an errand failed: ZeroDivisionError" in caplog.text
    errands.do(lambda: done.append(101))
    errands.settle(60)
    errands.end()
    assert len(done) == 101


def test_who_waits_for_what_was_given_waits_no_longer_than_that() -> None:
    with Errands("errands") as errands:
        goes_on = threading.Event()
        errands.do(goes_on.wait)
        errands.settle(0.01)
        done: list[int] = []
        errands.do(lambda: done.append(1))
        goes_on.set()
        errands.settle(10)
        assert done == [1]


def test_the_thread_ends_with_its_owner_and_holds_nothing() -> None:
    class Thing:
        pass

    errands, thing = Errands("forgotten"), Thing()
    errands.do(lambda thing=thing: None)  # type: ignore[misc]
    errands.settle(10)
    is_gone = weakref.ref(thing)
    del thing
    assert is_gone() is None
    del errands
    gc.collect()
    wait_until(lambda: all(thread.name != "forgotten" for thread in threading.enumerate()), 10)
