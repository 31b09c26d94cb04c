"""What every test begins with, and how two processes share the suite (`make test`)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_text_model import save_text_model
from warm_python import WARM_NURSERY, warm_server

from shardnet.cluster import local_workers

# A shell starts what it puts in the background deaf to Ctrl-C, and so would be every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

AGAINST_THE_CLOCK = {
    f"tests/integration/test_{name}.py"
    for name in ("commands", "elastic_rpc", "lifecycle", "link_probe_rpc", "local_workers", "shardnet_run")
}
"""Files that say how many seconds something may take, or that measure. They run one after the other in one process,
first of all, while the other process goes through the tests that start no process and need one core."""

LONGEST = [f"tests/integration/test_{name}.py" for name in ("embedded_model", "documentation")]
"""Come before the others that share the end, or one process would wait for the other."""


@pytest.fixture(autouse=True)
def signals_are_pythons_own() -> Iterator[None]:
    """A command that a test runs in this process ends it at once by a signal, and no longer when the test is over."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of six units. Its head is scaled up: what is rounded on the way shows in the text."""
    return save_text_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def warm_python() -> Iterator[None]:
    """Lets a test start processes with WARM_PYTHON."""
    with warm_server():
        yield


@pytest.fixture(scope="module")
def warm_devices(warm_python: None) -> Iterator[None]:
    """The local devices of this module's clusters come from WARM_PYTHON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_workers, "NURSERY_COMMAND", WARM_NURSERY)
        yield


def group_of(nodeid: str) -> str:
    """What goes to one process as a whole: a file, whose tests share what they make, or all that look at the clock."""
    file = nodeid.partition("::")[0]
    return "against the clock" if file in AGAINST_THE_CLOCK else file


def turn_of(item: pytest.Item) -> int:
    """When a test comes where two processes share the suite."""
    group = group_of(item.nodeid)
    if group == "against the clock":
        return 0
    if "/integration/" not in group:
        return 1
    return 2 if group in LONGEST else 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=turn_of)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives out whole groups, in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)
