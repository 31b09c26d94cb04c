"""What every test begins with."""

import signal
from collections.abc import Iterator

import pytest

# A shell starts what it puts in the background deaf to Ctrl-C, and so would be every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals_are_pythons_own() -> Iterator[None]:
    """A command that a test runs in this process ends it at once by a signal, and no longer when the test is over."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
