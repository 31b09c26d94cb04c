"""What tests with real processes may begin with."""

from collections.abc import Iterator

import pytest
from integration.warm_python import WARM_NURSERY, warm_server

from shardnet.cluster import local_workers


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
